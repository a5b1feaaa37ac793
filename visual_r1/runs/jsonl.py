"""JSON lines: what a run writes down row by row, and the one rule for reading it again.

`ledger.jsonl`, `validation.jsonl`, `alarms.jsonl` and `metrics.jsonl` hold a JSON object a line,
all rows of a file of one type. Torn and damaged lines, and rows of another version:

- A line counts when it is UTF-8 and JSON and, taken strictly, a row of the file's type: no field
  that must be there is missing, none holds another type. Fields with a default may be missing: an
  earlier version did not have them.
- Every other line is damaged: one that broke off (a power cut, a full disk), one whose bytes
  changed, and one with a field that the type does not know. Such a row is of a newer version, and
  what it means nobody here can say. (Rows of metrics have the columns that their run has, so there
  no field is unknown.)
- A damaged line is never used, wherever it stands, and never lost: reading leaves it where it is,
  and the next writing moves it to `<name>.set-aside.jsonl`, byte for byte, with a warning. A ledger
  is stricter, see there.
- A row that no longer counts goes the same way, without a warning.
- A row that stays keeps its line to the byte, also where this version would write it otherwise.
- The side file is written first: a kill between the two leaves a line in both, never in neither.
  A line that it holds already is not added again.
"""

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from visual_r1.errors import StorageError
from visual_r1.printing import open_logger
from visual_r1.storage import replaced_whole, sync_file

logger = open_logger(__name__)

RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True)
class Line(Generic[RowT]):
    """A row and its line as it stands in the file, without the newline."""

    text: bytes
    row: RowT


class JsonLines(Generic[RowT]):
    """The rows in the file `path`, which need not be there; only one process may write them.

    `row_type` is that of a frozen dataclass or a dictionary. Whatever writes raises `StorageError`
    where the disk is full or refuses it; the file then stays as it was.
    """

    def __init__(self, path: Path, row_type: TypeAdapter[RowT]) -> None:
        self.path = path
        self.set_aside_path = path.with_name(f"{path.stem}.set-aside.jsonl")
        self._row_type = row_type

    def read(self) -> tuple[list[Line[RowT]], dict[int, bytes]]:
        """The lines that count, in order, and the damaged ones by their number, from 1."""
        sound: list[Line[RowT]] = []
        damaged: dict[int, bytes] = {}
        for number, text in enumerate(_texts(self.path), start=1):
            try:
                row = self._row_type.validate_json(text, strict=True, extra="forbid")
                sound.append(Line(text, row))
            except ValidationError:
                damaged[number] = text
        return sound, damaged

    def rows(self) -> list[RowT]:
        """The rows that count, in the order of the file; changes nothing."""
        return [line.row for line in self.read()[0]]

    def line(self, row: RowT) -> Line[RowT]:
        """A new row with the line that it will have."""
        return Line(json.dumps(row, default=asdict).encode(), row)

    def write(self, lines: Iterable[Line[RowT]], forget: Collection[Line[RowT]] = ()) -> None:
        """Make `lines` the file, flushed to the disk; all other lines that it has are set aside.

        Except those to `forget`: rows that `lines` holds in a newer form, or that are made again.
        """
        lines = list(lines)
        damaged = set(self.read()[1].values())
        spared = {line.text for line in (*lines, *forget)}
        added = self.set_aside(text for text in _texts(self.path) if text not in spared)
        if moved := sum(text in damaged for text in added):
            logger.warning(
                "%d damaged row(s) of %s were moved to %s.",
                moved,
                self.path,
                self.set_aside_path.name,
            )
        _replace(self.path, [line.text for line in lines])

    def replace(self, old: Line[RowT], row: RowT) -> None:
        """Let `row`, a newer form of the row of `old`, stand in its place."""
        lines = [self.line(row) if line == old else line for line in self.read()[0]]
        self.write(lines, forget=[old])

    def keep(self, counts: Callable[[RowT], bool]) -> None:
        """Set aside the rows for which `counts` is false, and damaged ones."""
        self.write(line for line in self.read()[0] if counts(line.row))

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
        try:
            with self.path.open("ab") as out:
                out.write(self.line(row).text + b"\n")
        except OSError as error:
            raise StorageError(
                f"could not write {self.path}: {error.strerror or error}. "
                "Free some space; the run goes on from its last checkpoint."
            ) from error

    def flush(self) -> None:
        """Bring appended rows to the disk."""
        if self.path.exists():
            sync_file(self.path)


def _texts(path: Path) -> list[bytes]:
    """The lines of a file, none where it is not there; blank ones are none."""
    if not path.exists():
        return []
    return [text for text in path.read_bytes().split(b"\n") if text.strip()]


def _replace(path: Path, texts: Iterable[bytes]) -> None:
    """Write the lines whole or not at all; a file that holds them already is left alone."""
    content = b"".join(text + b"\n" for text in texts)
    if content != (path.read_bytes() if path.exists() else b""):
        with replaced_whole(path) as temporary:
            temporary.write_bytes(content)
