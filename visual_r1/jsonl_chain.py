"""The links of a chain of lines, and a file's lines as bytes; which of them count, `jsonl` says.

The last field of a line is its link: 16 hex digits of a digest of the line without it, and 16 of a
digest of these and the link of the line before.
"""

import io
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from visual_r1.errors import StorageError
from visual_r1.hashing import content_digest
from visual_r1.known_lines import TAIL
from visual_r1.opening import open_file
from visual_r1.storage import replaced_whole

CHAIN = "chain"
"""The key of a link, which no row has."""

_CHAIN = re.compile(rb', "chain": "([0-9a-f]{16})([0-9a-f]{16})"\}')


class Split(NamedTuple):
    """A line without its link, and the two halves of that; None where it has none."""

    text: bytes
    own: str | None
    link: str | None


def split_link(text: bytes) -> Split:
    """A line as it stands in a file, without its newline."""
    # Searched for from the end: what a row says may look like a link.
    start = text.rfind(b', "chain": "')
    found = _CHAIN.fullmatch(text, start) if start > 0 else None
    if found is None:
        return Split(text, None, None)
    return Split(text[:start] + b"}", *(half.decode() for half in found.groups()))


def own_digest(text: bytes) -> str:
    """The first half of the link of the line `text`."""
    return content_digest(text)[:16]


def link_of(last: str, text: bytes) -> str:
    """The second half, where it follows on what has the link `last`."""
    return content_digest(last.encode(), own_digest(text).encode())[:16]


def with_link(text: bytes, last: str) -> bytes:
    """The line `text` with its link, as it stands in a file."""
    return text[:-1] + f', "chain": "{own_digest(text)}{link_of(last, text)}"}}'.encode()


def link_after(text: bytes, last: str) -> str:
    """What the line that follows on `text` is linked to; `last` is what `text` is linked to."""
    _, own, link = split_link(text)
    return content_digest(last.encode(), text) if own is None or link is None else own + link


def with_links(path: Path) -> Iterator[tuple[bytes, str]]:
    """The lines of a file, each with what it is linked to."""
    last = ""
    for text in each_text(path):
        yield text, last
        last = link_after(text, last)


def end_of(path: Path) -> tuple[bool, str]:
    """Whether the last line of a file is whole, and what the next one is linked to."""
    if not path.exists():
        return True, ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        tail = file.read()
    lines = [text for text in tail.split(b"\n") if text.strip()]
    # The first one of several is whole, or is not the last.
    if len(lines) > 1 and split_link(lines[-1]).link is not None:
        return tail.endswith(b"\n"), link_after(lines[-1], "")
    last = ""
    for text in texts_of(path):
        last = link_after(text, last)
    return not tail or tail.endswith(b"\n"), last


def texts_of(path: Path) -> list[bytes]:
    """The lines of a file, none where it is not there; blank ones are none.

    Without the carriage return that an editor or a transfer may have put at their ends.
    """
    return list(each_text(path))


def each_text(path: Path) -> Iterator[bytes]:
    """The same one by one. Raises `StorageError` where the file cannot be read."""
    if not path.exists():
        return
    try:
        with open_file(path) as file:
            for text in file:
                if text.strip():
                    yield text.removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read ({error.strerror or error}): put the file back as it was."
        ) from error


def replace_lines(path: Path, texts: Iterable[bytes]) -> None:
    """Write the lines whole or not at all; a file that holds them already is left alone."""
    content = b"".join(text + b"\n" for text in texts)
    if content != (path.read_bytes() if path.exists() else b""):
        with replaced_whole(path) as temporary:
            temporary.write_bytes(content)


def write_all(out: io.FileIO, text: bytes, before: bytes) -> None:
    """Write at the file's place, in whose last bytes `before` stands; where it fails, leave it so.

    A disk that is full takes a part, which would stand there as a damaged row.
    """
    start, written = out.tell(), 0
    try:
        while written < len(text):
            written += out.write(text[written:])
    except OSError:
        with suppress(OSError):
            out.truncate(start + len(before))
            out.seek(start)
            out.write(before)
        raise


@contextmanager
def said_of_writing(path: Path) -> Generator[None]:
    """Let what keeps the block from writing the file be one sentence: a `StorageError`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageError(
            f"{path.parent} was removed while its run was going on: put it back, and the "
            "same command goes on from the last checkpoint; without it, that command begins "
            "the run anew."
        ) from error
    except OSError as error:
        raise StorageError(
            f"could not write {path}: {error.strerror or error}. "
            "Free some space; the same command goes on from what was written."
        ) from error
