"""JSON lines: what a run writes down row by row, and the one rule for reading it again.

`ledger.jsonl`, `validation.jsonl`, `alarms.jsonl` and `metrics.jsonl` hold a JSON object a line,
all rows of a file of one type. The last field of each line is its link in a chain:

    {"step": 4, …, "chain": "5b0a0de7b4b9dcb1c1d0c0f7a3c5f2e4"}

16 hex digits of a digest of the row's own bytes, and 16 of a digest of these and the link of the
line before. The first half says that the row is as it was written, the second that it stands where
it was written. So a row that changed is found, and so is one that is missing, doubled or moved;
rows that are missing at the end are found by the ledger, which counts them. The chain belongs to
the file: no row has it. A file of an older version has none: its rows go on, unverified, and the
first link that is added vouches for them from then on.

Torn and damaged lines, and rows of another version:

- A line counts when it is UTF-8 and JSON and, taken strictly, a row of the file's type: no field
  that must be there is missing, none holds another type. Fields with a default may be missing: an
  earlier version did not have them.
- Every other line is damaged: one that broke off (a power cut, a full disk), one whose bytes are
  not those of its link, one without a link after one that has it, and one with a field that the
  type does not know. Such a row is of a newer version, and what it means nobody here can say. (Rows
  of metrics have the columns that their run has, so there no field is unknown.)
- A line that stands there twice counts once.
- A damaged line is never used, wherever it stands, and never lost: reading leaves it where it is,
  and the next writing moves it to `<name>.set-aside.jsonl`, byte for byte, with a warning. A ledger
  is stricter, see there.
- A row that no longer counts goes the same way, without a warning.
- A row that stays keeps its line to the byte, also where this version would write it otherwise;
  only its link is another where what stands before it is another.
- The side file is written first: a kill between the two leaves a line in both, never in neither.
  A line that it holds already is not added again.
"""

import json
import os
import re
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from visual_r1.errors import StorageError
from visual_r1.hashing import content_digest
from visual_r1.opening import open_file
from visual_r1.printing import open_logger
from visual_r1.storage import replaced_whole, sync_file

logger = open_logger(__name__)

RowT = TypeVar("RowT")

LATER = {"later": True}
"""Metadata of a field that rows came to have later: at its default it is not written, so that an
older version's row is written again as it was."""

CHAIN = "chain"
"""The key of a link, which no row has."""

_CHAIN = re.compile(rb', "chain": "([0-9a-f]{16})([0-9a-f]{16})"\}')
_TAIL = 2**16


@dataclass(frozen=True, slots=True)
class Line(Generic[RowT]):
    """A row and its line as it stands in the file, without the newline and without its link."""

    text: bytes
    row: RowT

    @property
    def digest(self) -> str:
        """Of the line; a row that stays keeps it, whatever stands before it."""
        return content_digest(self.text)


class Read(NamedTuple, Generic[RowT]):
    """A line of a file as it was read; `line` is None where it is damaged, or `doubled`.

    One that is `chained` has a link, or stands behind one that has; of a `gap` see `Reading`.
    """

    number: int
    text: bytes
    line: Line[RowT] | None
    chained: bool = False
    doubled: bool = False
    gap: bool = False


class Reading(NamedTuple, Generic[RowT]):
    """A file's lines by their numbers, from 1.

    `sound` are those that count, in order; `damaged` and `doubled` are whole, with their links. A
    line of `gaps` counts and does not follow on the one before: something is missing there, or
    stands elsewhere. The first `unverified` of the sound ones are of an older version, without a
    link.
    """

    sound: list[Line[RowT]]
    damaged: dict[int, bytes]
    doubled: dict[int, bytes]
    gaps: list[int]
    unverified: int

    def gaps_in_words(self) -> str:
        """Which rows do not follow on those before them."""
        numbers = ", ".join(map(str, self.gaps))
        which = f"row {numbers} does" if len(self.gaps) == 1 else f"rows {numbers} do"
        return f"{which} not follow on what stands before: rows are missing, or were moved"


class JsonLines(Generic[RowT]):
    """The rows in the file `path`, which need not be there; only one process may write them.

    `row_type` is that of a frozen dataclass or a dictionary. Whatever writes raises `StorageError`
    where the disk is full or refuses it; the file then stays as it was.
    """

    def __init__(self, path: Path, row_type: TypeAdapter[RowT]) -> None:
        self.path = path
        self.set_aside_path = path.with_name(f"{path.stem}.set-aside.jsonl")
        self._row_type = row_type

    def read(self) -> Reading[RowT]:
        """All that stands in the file; changes nothing."""
        found = Reading[RowT]([], {}, {}, [], 0)
        unverified = 0
        for one in self.each():
            if one.line is not None:
                found.sound.append(one.line)
                unverified += not one.chained
            elif one.doubled:
                found.doubled[one.number] = one.text
            else:
                found.damaged[one.number] = one.text
            if one.gap:
                found.gaps.append(one.number)
        return found._replace(unverified=unverified)

    def each(self) -> Iterator[Read[RowT]]:
        """The lines one by one, for files that need not stand in memory whole."""
        chained, follows = False, True
        before: set[str] = set()
        for number, (text, last) in enumerate(_with_links(self.path), start=1):
            digest, row = content_digest(text), _split(text)
            doubled = digest in before
            before.add(digest)
            if doubled:
                yield Read(number, text, None, doubled=True)
                continue
            chained = chained or row.link is not None
            try:
                if chained and row.own != _own(row.text):
                    raise ValueError("another one was written")
                read = self._row_type.validate_json(row.text, strict=True, extra="forbid")
            except (ValidationError, ValueError):
                follows = False
                yield Read(number, text, None)
                continue
            # What follows on a damaged line cannot tell whether anything else is wrong there.
            gap = follows and chained and row.link != _link(last, row.text)
            follows = True
            yield Read(number, text, Line(row.text, read), chained=chained, gap=gap)

    def rows(self) -> list[RowT]:
        """The rows that count, in the order of the file; changes nothing."""
        return [line.row for line in self.read().sound]

    def line(self, row: RowT) -> Line[RowT]:
        """A new row with the line that it will have."""
        return Line(json.dumps(row, default=_as_written).encode(), row)

    def write(self, lines: Iterable[Line[RowT]], forget: Collection[Line[RowT]] = ()) -> None:
        """Make `lines` the file, flushed to the disk; all other lines that it has are set aside.

        Except those to `forget`: rows that `lines` holds in a newer form, or that are made again.
        """
        lines, there = list(lines), self.read()
        damaged = set(there.damaged.values())
        spared = {line.text for line in (*lines, *forget)}
        added = self.set_aside(
            text for text in _texts(self.path) if text in damaged or _split(text).text not in spared
        )
        if moved := sum(text in damaged for text in added):
            aside = self.set_aside_path.name
            logger.warning("%d damaged row(s) of %s were moved to %s.", moved, self.path, aside)
        if there.doubled:
            logger.warning("%d row(s) of %s stood there twice.", len(there.doubled), self.path)
        if there.gaps:
            logger.warning("In %s %s.", self.path, there.gaps_in_words())
        _replace(
            self.path, _chained(lines, {line.text for line in there.sound[: there.unverified]})
        )

    def replace(self, old: Line[RowT], row: RowT) -> None:
        """Let `row`, a newer form of the row of `old`, stand in its place."""
        if row == old.row:
            return
        lines = [self.line(row) if line == old else line for line in self.read().sound]
        self.write(lines, forget=[old])

    def keep(self, counts: Callable[[RowT], bool]) -> None:
        """Set aside the rows for which `counts` is false, and damaged ones."""
        self.write(line for line in self.read().sound if counts(line.row))

    def set_aside(self, texts: Iterable[bytes]) -> list[bytes]:
        """Copy lines to the side file, flushed to the disk; those that were not there yet."""
        before = _texts(self.set_aside_path)
        added = [text for text in dict.fromkeys(texts) if text not in before]
        if added:
            _replace(self.set_aside_path, [*before, *added])
        return added

    def append(self, row: RowT) -> None:
        """Add a row at the end without writing the others again; others can read it at once.

        It is on the disk for certain after `flush`. Until then a power cut may leave a part of it.
        """
        with self._told():
            whole, link = _end(self.path)
            with self.path.open("ab") as out:
                text = _with_link(self.line(row).text, link)
                out.write((b"" if whole else b"\n") + text + b"\n")

    @contextmanager
    def appending(self, flushed_s: float) -> Generator[Callable[[RowT], None]]:
        """`append` for many rows: the file stays open, and its end is looked at once.

        A row survives the process once it is added. For power cuts the file is flushed to the disk
        at most every `flushed_s` seconds, and at the end.
        """
        flushed = time.monotonic()
        with self._told():
            whole, link = _end(self.path)
            out = self.path.open("ab")

        def add(row: RowT) -> None:
            nonlocal whole, link, flushed
            text = _with_link(self.line(row).text, link)
            with self._told():
                out.write((b"" if whole else b"\n") + text + b"\n")
                out.flush()
                if time.monotonic() - flushed > flushed_s:
                    os.fsync(out.fileno())
                    flushed = time.monotonic()
            whole, link = True, _after(text, "")

        try:
            yield add
            with self._told():
                os.fsync(out.fileno())
        finally:
            # What a full disk took no row of is said already.
            with suppress(OSError):
                out.close()

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StorageError(
                f"{self.path.parent} was removed while its run was going on: put it back, and the "
                "same command goes on from the last checkpoint; without it, that command begins "
                "the run anew."
            ) from error
        except OSError as error:
            raise StorageError(
                f"could not write {self.path}: {error.strerror or error}. "
                "Free some space; the same command goes on from what was written."
            ) from error

    def flush(self) -> None:
        """Bring appended rows to the disk."""
        if self.path.exists():
            sync_file(self.path)


class _Split(NamedTuple):
    """A line without its link, and the two halves of that; None where it has none."""

    text: bytes
    own: str | None
    link: str | None


def _split(text: bytes) -> _Split:
    # Searched for from the end: what a row says may look like a link.
    start = text.rfind(b', "chain": "')
    found = _CHAIN.fullmatch(text, start) if start > 0 else None
    if found is None:
        return _Split(text, None, None)
    return _Split(text[:start] + b"}", *(half.decode() for half in found.groups()))


def _own(text: bytes) -> str:
    return content_digest(text)[:16]


def _link(last: str, text: bytes) -> str:
    return content_digest(last.encode(), _own(text).encode())[:16]


def _with_link(text: bytes, last: str) -> bytes:
    return text[:-1] + f', "chain": "{_own(text)}{_link(last, text)}"}}'.encode()


def _after(text: bytes, last: str) -> str:
    """What the line that follows on `text` is linked to; `last` is what `text` is linked to."""
    _, own, link = _split(text)
    return content_digest(last.encode(), text) if own is None or link is None else own + link


def _with_links(path: Path) -> Iterator[tuple[bytes, str]]:
    """The lines of a file, each with what it is linked to."""
    last = ""
    for text in _each_text(path):
        yield text, last
        last = _after(text, last)


def _chained(lines: Iterable[Line[RowT]], unlinked: Collection[bytes]) -> Iterator[bytes]:
    """The lines with their links; up to the first new one those of an older version have none."""
    last, chained = "", False
    for line in lines:
        chained = chained or line.text not in unlinked
        text = _with_link(line.text, last) if chained else line.text
        yield text
        last = _after(text, last)


def _end(path: Path) -> tuple[bool, str]:
    """Whether the last line of a file is whole, and what the next one is linked to."""
    if not path.exists():
        return True, ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    lines = [text for text in tail.split(b"\n") if text.strip()]
    # The first one of several is whole, or is not the last.
    if len(lines) > 1 and _split(lines[-1]).link is not None:
        return tail.endswith(b"\n"), _after(lines[-1], "")
    last = ""
    for text in _texts(path):
        last = _after(text, last)
    return not tail or tail.endswith(b"\n"), last


def _texts(path: Path) -> list[bytes]:
    """The lines of a file, none where it is not there; blank ones are none.

    Without the carriage return that an editor or a transfer may have put at their ends.
    """
    return list(_each_text(path))


def _each_text(path: Path) -> Iterator[bytes]:
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


def _replace(path: Path, texts: Iterable[bytes]) -> None:
    """Write the lines whole or not at all; a file that holds them already is left alone."""
    content = b"".join(text + b"\n" for text in texts)
    if content != (path.read_bytes() if path.exists() else b""):
        with replaced_whole(path) as temporary:
            temporary.write_bytes(content)


def _as_written(row: Any) -> dict[str, Any]:
    """What a row's line holds of a dataclass."""
    return {
        field.name: value
        for field in fields(row)
        if (value := getattr(row, field.name)) != field.default or not field.metadata.get("later")
    }
