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

A row that is added at the end, or that takes the place of the last one, leaves the others alone:
what a checkpoint writes and reads does not grow with the file, see `known_lines`.
"""

import itertools
import json
import os
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from visual_r1.hashing import content_digest
from visual_r1.jsonl_chain import (
    end_of,
    link_after,
    link_of,
    own_digest,
    replace_lines,
    said_of_writing,
    split_link,
    texts_of,
    with_link,
    with_links,
    write_all,
)
from visual_r1.known_lines import Known, Mark, from_the_end, known, learnt, mark_of, unlearn
from visual_r1.printing import open_logger
from visual_r1.storage import sync_file, sync_folder

logger = open_logger(__name__)

RowT = TypeVar("RowT")

LATER = {"later": True}
"""Metadata of a field that rows came to have later: at its default it is not written, so that an
older version's row is written again as it was."""


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

    @property
    def is_whole(self) -> bool:
        """Whether all lines count, each where it was written: more can be added at the end."""
        return not (self.damaged or self.doubled or self.gaps)

    def gaps_in_words(self) -> str:
        """Which rows do not follow on those before them."""
        numbers = ", ".join(map(str, self.gaps))
        which = f"row {numbers} does" if len(self.gaps) == 1 else f"rows {numbers} do"
        return f"{which} not follow on what stands before: rows are missing, or were moved"


class JsonLines(Generic[RowT]):
    """The rows in the file `path`, which need not be there; only one process may write them.

    `row_type` is that of a frozen dataclass or a dictionary. That process keeps the rows in memory
    where they are `kept`: a row a checkpoint, say. Whatever writes raises `StorageError` where the
    disk is full or refuses it; the file then stays as it was.
    """

    def __init__(self, path: Path, row_type: TypeAdapter[RowT], *, kept: bool = False) -> None:
        self.path = path
        self.set_aside_path = path.with_name(f"{path.stem}.set-aside.jsonl")
        self._row_type = row_type
        self._is_kept = kept

    def read(self) -> Reading[RowT]:
        """All that stands in the file; changes nothing."""
        there = known(self.path) if self._is_kept else None
        if there is not None and there.lines is not None:
            return Reading(list(there.lines), {}, {}, [], there.unverified)
        if self._is_kept and self.path in _written:
            return self._learn()[0]
        return self._read_whole()

    def generation(self) -> int:
        """A number that stays while rows are only added, or the last one is replaced.

        It never comes again once the file was written anew, by whomever. For who writes it.
        """
        there = known(self.path) or self._learn()[1]
        return next(_unknown) if there is None else there.generation

    def since(self, is_before: Callable[[RowT], bool]) -> list[Line[RowT]]:
        """The lines that count behind the last one of a row that `is_before`, in their order.

        As much of the file is read as they take, where this process knows the rest of it.
        """
        if (there := known(self.path)) is None or there.count == there.unverified:
            lines = self.read().sound
        elif there.lines is not None:
            lines = there.lines
        elif (newest := self._newest(is_before)) is not None:
            return newest
        else:
            lines = self._read_whole().sound
        found: list[Line[RowT]] = []
        for line in reversed(lines):
            if is_before(line.row):
                break
            found.append(line)
        return found[::-1]

    def _newest(self, is_before: Callable[[RowT], bool]) -> list[Line[RowT]] | None:
        """As `since`, of a file that is known; None where it has lines that need the others."""
        found: list[Line[RowT]] = []
        for _, text in from_the_end(self.path):
            row = split_link(text.rstrip(b"\r\n"))
            if row.link is None:
                return None
            line = Line(row.text, self._row_type.validate_json(row.text, strict=True))
            if is_before(line.row):
                break
            found.append(line)
        return found[::-1]

    def _learn(self) -> tuple[Reading[RowT], Known | None]:
        """All that stands in the file, remembered where all of it counts."""
        before = self._mark()
        found = self._read_whole()
        if not found.is_whole or before != self._mark():
            return found, None
        lines = list(found.sound) if self._is_kept else None
        return found, learnt(self.path, before, len(found.sound), found.unverified, lines)

    def _mark(self) -> Mark | None:
        with suppress(OSError):  # reading says so
            return mark_of(self.path)
        return None

    def _read_whole(self) -> Reading[RowT]:
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
        for number, (text, last) in enumerate(with_links(self.path), start=1):
            digest, row = content_digest(text), split_link(text)
            doubled = digest in before
            before.add(digest)
            if doubled:
                yield Read(number, text, None, doubled=True)
                continue
            chained = chained or row.link is not None
            try:
                if chained and row.own != own_digest(row.text):
                    raise ValueError("another one was written")
                read = self._row_type.validate_json(row.text, strict=True, extra="forbid")
            except (ValidationError, ValueError):
                follows = False
                yield Read(number, text, None)
                continue
            # What follows on a damaged line cannot tell whether anything else is wrong there.
            gap = follows and chained and row.link != link_of(last, row.text)
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
            text
            for text in texts_of(self.path)
            if text in damaged or split_link(text).text not in spared
        )
        if moved := sum(text in damaged for text in added):
            aside = self.set_aside_path.name
            logger.warning("%d damaged row(s) of %s were moved to %s.", moved, self.path, aside)
        if there.doubled:
            logger.warning("%d row(s) of %s stood there twice.", len(there.doubled), self.path)
        if there.gaps:
            logger.warning("In %s %s.", self.path, there.gaps_in_words())
        _written.add(self.path)
        unlearn(self.path)
        replace_lines(
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
        path = self.set_aside_path
        mark, before = _aside.get(path, (None, set[str]()))
        if mark is None or mark != mark_of(path):
            before = set(map(content_digest, texts_of(path)))
        added = [one for one in dict.fromkeys(texts) if content_digest(one) not in before]
        if added:
            with said_of_writing(self.path):
                is_new = not path.exists()
                whole, _ = end_of(path)
                with path.open("ab", buffering=0) as out:
                    lines = b"".join(text + b"\n" for text in added)
                    write_all(out, (b"" if whole else b"\n") + lines, b"")
                    os.fsync(out.fileno())
                if is_new:
                    sync_folder(path.parent)
            _aside[path] = mark_of(path), before | set(map(content_digest, added))
        return added

    def append(self, *rows: RowT, flushed: bool = False) -> None:
        """Add rows at the end without writing the others again; others can read them at once.

        They are on the disk for certain where they are `flushed`, or after `flush`. Until then a
        power cut may leave a part of them.
        """
        there, lines = known(self.path), [self.line(row) for row in rows]
        with said_of_writing(self.path):
            is_new = not self.path.exists()
            whole, link = end_of(self.path)
            texts = b"" if whole else b"\n"
            for line in lines:
                texts += (text := with_link(line.text, link)) + b"\n"
                link = link_after(text, "")
            with self.path.open("ab", buffering=0) as out:
                write_all(out, texts, b"")
                if flushed:
                    os.fsync(out.fileno())
            if flushed and is_new:
                sync_folder(self.path.parent)
        _written.add(self.path)
        if is_new:
            there = learnt(self.path, None, 0, 0, [] if self._is_kept else None)
        if there is not None:
            self._add(there, [line.text for line in lines])

    def replace_last(self, change: Callable[[RowT], RowT]) -> None:
        """Let another row stand in the place of the last one; the others are left alone.

        A kill leaves the one or the other, and a power cut perhaps a damaged line: for rows of
        which a part may be lost until the file is flushed.
        """
        there = known(self.path)
        is_whole = there is not None and there.count > there.unverified
        ends = [*itertools.islice(from_the_end(self.path), 2)] if is_whole else []
        place, last = ends[0] if ends else (0, b"")
        old = split_link(last.removesuffix(b"\n"))
        if there is None or old.link is None:
            for line in self._read_whole().sound[-1:]:
                self.replace(line, change(line.row))
            return
        line = self._as_read(old.text)
        link = link_after(ends[1][1].removesuffix(b"\n"), "") if len(ends) > 1 else ""
        new = self.line(change(line.row))
        text = with_link(new.text, link) + b"\n"
        if len(text) < len(last):  # what is left of the old one would stand behind it
            self.replace(line, new.row)
            return
        with said_of_writing(self.path), self.path.open("r+b", buffering=0) as out:
            out.seek(place)
            write_all(out, text, last)
        if there.lines is not None:
            there.lines[-1] = self._as_read(new.text)
        there.mark = self._mark()

    def _add(self, there: Known, texts: list[bytes]) -> None:
        """Know of lines that were added; where one is no row, as it is read, nothing any more."""
        try:
            if there.lines is not None:
                there.lines += [self._as_read(text) for text in texts]
        except ValidationError:
            unlearn(self.path)
            return
        there.count += len(texts)
        there.mark = self._mark()

    def _as_read(self, text: bytes) -> Line[RowT]:
        return Line(text, self._row_type.validate_json(text, strict=True))

    @contextmanager
    def appending(self, flushed_s: float) -> Generator[Callable[[RowT], None]]:
        """`append` for many rows: the file stays open, and its end is looked at once.

        A row survives the process once it is added. For power cuts the file is flushed to the disk
        at most every `flushed_s` seconds, and at the end.
        """
        flushed = time.monotonic()
        with said_of_writing(self.path):
            whole, link = end_of(self.path)
            out = self.path.open("ab")

        def add(row: RowT) -> None:
            nonlocal whole, link, flushed
            text = with_link(self.line(row).text, link)
            with said_of_writing(self.path):
                out.write((b"" if whole else b"\n") + text + b"\n")
                out.flush()
                if time.monotonic() - flushed > flushed_s:
                    os.fsync(out.fileno())
                    flushed = time.monotonic()
            whole, link = True, link_after(text, "")

        try:
            yield add
            with said_of_writing(self.path):
                os.fsync(out.fileno())
        finally:
            # What a full disk took no row of is said already.
            with suppress(OSError):
                out.close()

    def flush(self) -> None:
        """Bring appended rows to the disk."""
        if self.path.exists():
            sync_file(self.path)


_written: set[Path] = set()
"""The files that this process has written; it alone does, so it may remember them."""

_unknown = itertools.count(-1, -1)

_aside: dict[Path, tuple[Mark | None, set[str]]] = {}
"""Of the side files that it has written, the digests of their lines."""


def _chained(lines: Iterable[Line[RowT]], unlinked: Collection[bytes]) -> Iterator[bytes]:
    """The lines with their links; up to the first new one those of an older version have none."""
    last, chained = "", False
    for line in lines:
        chained = chained or line.text not in unlinked
        text = with_link(line.text, last) if chained else line.text
        yield text
        last = link_after(text, last)


def _as_written(row: Any) -> dict[str, Any]:
    """What a row's line holds of a dataclass."""
    return {
        field.name: value
        for field in fields(row)
        if (value := getattr(row, field.name)) != field.default or not field.metadata.get("later")
    }
