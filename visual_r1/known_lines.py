"""What this process knows of a file of JSON lines that it alone writes.

A run's files grow with it, and are looked at at each of its checkpoints. Read whole each time, a
late checkpoint would cost more than an early one. So who writes a file remembers how it was left:
device, inode, size, both times, and a digest of its last 64 KB. While all of that is the same,
what was read once need not be read again; as soon as any of it differs (another process wrote it,
an editor, a copy that was put back) nothing is known, and the file is read whole.

None of this is on the disk: a start knows nothing, and reads everything once. What changes no time
of its file, a disk that rots, shows at the next start, and to `visual-r1 verify`.
"""

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from visual_r1.hashing import content_digest
from visual_r1.opening import open_file

TAIL = 2**16
"""Bytes of a file's end that are read at once."""

_generations = itertools.count(1)
_LINE = re.compile(rb"[^\n]*\n?")  # a carriage return ends none


class Mark(NamedTuple):
    """How a file stands: where, how long, when it changed, and a digest of its last bytes."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int
    tail: str


@dataclass(slots=True)
class Known:
    """A file of which every line counts, as this process left it or read it last.

    `mark` is None where there is no file. `count` lines are in it, the first `unverified` of them
    of an older version. `lines` holds them all, or None where they are too many to be kept. While
    `generation` is the same, lines were only added, or the last one was replaced.
    """

    mark: Mark | None
    count: int
    unverified: int
    lines: list[Any] | None
    generation: int


_known: dict[Path, Known] = {}


def mark_of(path: Path) -> Mark | None:
    """How the file stands now; None where there is none. Raises `OSError` as opening it does."""
    try:
        with open_file(path) as file:
            status = os.fstat(file.fileno())
            file.seek(max(0, status.st_size - TAIL))
            tail = content_digest(file.read())
    except FileNotFoundError:
        return None
    return Mark(
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        tail,
    )


def known(path: Path) -> Known | None:
    """What is known of the file; None where that is nothing, or where it is another by now."""
    found = _known.get(path)
    if found is None:
        return None
    try:
        if mark_of(path) == found.mark:
            return found
    except OSError:  # whoever reads it says so
        pass
    del _known[path]
    return None


def learnt(
    path: Path, mark: Mark | None, count: int, unverified: int, lines: list[Any] | None
) -> Known:
    """Remember what was read whole while the file stood as `mark` says."""
    _known[path] = Known(mark, count, unverified, lines, next(_generations))
    return _known[path]


def unlearn(path: Path) -> None:
    """Know nothing of the file any more: it is about to be another."""
    _known.pop(path, None)


def from_the_end(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their places, the last one first; blank ones are none.

    As much is read as is asked for, in pieces of `TAIL`. Lines have their newline, where they do.
    """
    with open_file(path) as file:
        end = file.seek(0, os.SEEK_END)
        rest = b""
        while end:
            start = max(0, end - TAIL)
            file.seek(start)
            piece = file.read(end - start) + rest
            lines = [line for line in _LINE.findall(piece) if line]
            # The first one may begin before this piece.
            rest = lines.pop(0) if start else b""
            place = start + len(piece)
            for line in reversed(lines):
                place -= len(line)
                if line.strip():
                    yield place, line
            end = start
            if start == 0:
                return
