"""A process that was told to keeps what it frees, and pays for its pages once."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

AGAIN_AND_AGAIN = """
import resource
import sys
import threading
from visual_r1.freed_memory import keep_freed_memory

def work():
    for number in range(20):
        if number == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        pieces = [b"x" * PIECE for _ in range(4)]
        del pieces
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

keep_freed_memory(256 * 2**20, one_heap=IN_A_THREAD)
if IN_A_THREAD:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have no such settings")
@pytest.mark.parametrize(("piece", "in_a_thread"), [(700_000, False), (30_000_000, True)])
def test_pieces_that_are_freed_and_taken_again_are_the_same_pages(
    piece: int, in_a_thread: bool
) -> None:
    """In a thread too, whose own heap has no room for pieces of this size."""
    root = Path(__file__).parents[2]
    given = f"PIECE, IN_A_THREAD = {piece}, {in_a_thread}\n"
    done = subprocess.run(
        [sys.executable, "-c", given + AGAIN_AND_AGAIN],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 100, "pages, of some 6,800 that were written to"
