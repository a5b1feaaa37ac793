"""A process that was told to keeps what it frees, and pays for its pages once."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

AGAIN_AND_AGAIN = """
import resource
from visual_r1.freed_memory import keep_freed_memory
keep_freed_memory()
for number in range(20):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [b"x" * 700_000 for _ in range(4)]
    del pieces
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have no such settings")
def test_pieces_that_are_freed_and_taken_again_are_the_same_pages() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", AGAIN_AND_AGAIN],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 100, "pages, of some 6,800 that were written to"
