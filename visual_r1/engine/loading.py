"""What an engine says while it loads: that bytes still move.

A model of sixty gigabytes is downloaded and read for longer than anybody would wait for an engine
that hangs. So the engine tells whoever started it when it has moved data, and is waited for from
there on anew.
"""

import resource
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.filesize import decimal as size_text

from visual_r1.printing import say

LOADING = "engine loading: "
"""Begins a line on standard output before the engine serves."""

LOOK_EVERY_S = 5.0

WORTH_SAYING = 2**18
"""Bytes: a log's lines are no progress, and a download that brings less a look hangs."""

_BLOCK = 512
"""What `getrusage` counts in."""


def moved_bytes() -> int:
    """Bytes that this process has read and written so far: downloads, files, pages of mapped files.

    A page of a mapped file shows among the blocks alone, a socket among the calls alone.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    blocks = (used.ru_inblock + used.ru_oublock) * _BLOCK
    calls = 0
    with suppress(OSError, ValueError):  # Linux has it
        lines = Path("/proc/self/io").read_text().splitlines()
        counted = dict(line.split(": ") for line in lines)
        calls = int(counted.get("rchar", 0)) + int(counted.get("wchar", 0))
    return blocks + calls


@contextmanager
def saying_progress(
    moved: Callable[[], int] = moved_bytes, look_every_s: float = LOOK_EVERY_S
) -> Generator[None]:
    """While it is open, a line is said whenever enough has moved since the last."""
    done = threading.Event()

    def watch() -> None:
        start = said = moved()
        while not done.wait(look_every_s):
            now = moved()
            if now - said >= WORTH_SAYING:
                said = now
                say(f"{LOADING}{size_text(now - start)} moved")

    thread = threading.Thread(target=watch, name="loading", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        # Nothing is said behind the line that tells that the engine serves.
        thread.join()
