"""What a preparation has done so far, on disk: it can be killed, goes on, and needs no memory.

One SQLite file holds how many rows of the source were used up, which problems were kept (what
finds their duplicates, and the numbers of the card), which rows were rejected, and the kept
problems themselves until a shard is written of them. All of it changes together, in transactions,
so that a preparation killed at any moment goes on behind a row, with the same outcome.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from visual_r1.data import look_index
from visual_r1.data.fingerprint import Look
from visual_r1.data.look_index import LookIndex
from visual_r1.data.problem import Problem, Split
from visual_r1.data.shards import problem_row
from visual_r1.data.state_file import StateFile

_VERSION = 4
# Shards had no digest, and rows no sums: such a state goes on, and what it holds is unverified.
_UPGRADES = {3: "ALTER TABLE shards ADD COLUMN digest TEXT"}

# Why a row is not in the dataset: a fault of its own, or a problem that came before, with the same
# answer or with another.
Rejection = Literal["broken", "repeat", "conflict"]

_TABLES = f"""
CREATE TABLE splits (split TEXT PRIMARY KEY, used INTEGER, looked_at INTEGER, complete INTEGER);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE kept (
    number INTEGER PRIMARY KEY, split TEXT, place TEXT, id TEXT, answer TEXT, kind TEXT,
    content BLOB, images INTEGER, repeats INTEGER, withdrawn INTEGER DEFAULT 0);
CREATE UNIQUE INDEX kept_id ON kept (id);
CREATE INDEX kept_content ON kept (content);
CREATE TABLE tiles (number INTEGER PRIMARY KEY, tiles BLOB);
CREATE TABLE sizes (number INTEGER, width INTEGER, height INTEGER);
CREATE INDEX sizes_number ON sizes (number);
CREATE TABLE waiting (number INTEGER PRIMARY KEY, row TEXT, bytes INTEGER);
CREATE TABLE waiting_images (number INTEGER, part INTEGER, data BLOB, UNIQUE (number, part));
CREATE TABLE shards (first INTEGER PRIMARY KEY, split TEXT, shard INTEGER, digest TEXT);
CREATE TABLE rejected (
    number INTEGER PRIMARY KEY, split TEXT, row TEXT, id TEXT, reason TEXT,
    summary TEXT, kind TEXT);
{look_index.TABLES}"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A problem that was kept, as far as its duplicates need it.

    `number` counts all kept problems.
    """

    number: int
    split: Split
    place: str
    id: str
    answer: str
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class Marks:
    """What a problem is found by.

    Its exact content, its question together with the number of its images, their looks one behind
    another, and their tiles, packed.
    """

    content: bytes
    question: bytes
    looks: bytes
    tiles: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a split is: rows of the source used up, rows looked at, whether it is complete."""

    used: int
    looked_at: int
    complete: bool


class PreparationState(AbstractContextManager["PreparationState"]):
    """The state kept in `folder`; a transaction is always open, and `commit` makes it last.

    `numbers` are what the card tells. `waiting_bytes` are those of the problems that are in no
    shard yet, `unsaved` those that came since the last commit.

    Raises `sqlite3.DatabaseError` where the file is damaged or of another version, and
    `sqlite3.OperationalError`, also later, where it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.unsaved = 0
        self._file = StateFile(folder, _TABLES, _VERSION, _UPGRADES)
        try:
            self._looks = LookIndex(self._file)
            self.numbers = CardNumbers(self._file)
            self.waiting_bytes = self._file.number("SELECT TOTAL(bytes) FROM waiting")
            self._next = self._file.number("SELECT IFNULL(MAX(number) + 1, 0) FROM kept")
        except BaseException:
            self._file.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; what was not committed is forgotten, and will be done again."""
        self._file.close()

    def commit(self) -> None:
        """Make all that was written since the last call last."""
        self._file.commit()
        self.unsaved = 0

    def is_sound(self) -> bool:
        """Whether all of it is as it was written; that of version 3 only holds together."""
        return self._file.is_sound()

    # --- how far it is

    def standing(self, split: Split) -> Standing:
        """How far the split is."""
        found = self._file.rows(
            "SELECT used, looked_at, complete FROM splits WHERE split = ?", split
        )
        for used, looked_at, complete in found:
            return Standing(used, looked_at, bool(complete))
        return Standing(0, 0, False)

    def set_standing(self, split: Split, standing: Standing) -> None:
        """Note how far the split is."""
        self._file.execute(
            "INSERT OR REPLACE INTO splits VALUES (?, ?, ?, ?)",
            split, standing.used, standing.looked_at, standing.complete,
        )  # fmt: skip

    def setting(self, name: str) -> Any:
        """What `set_setting` stored, or None."""
        for (value,) in self._file.rows("SELECT value FROM settings WHERE name = ?", name):
            return json.loads(value)
        return None

    def set_setting(self, name: str, value: Any) -> None:
        """Store something JSON-able that must not change when the preparation goes on."""
        text = json.dumps(value)
        self._file.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", name, text)

    # --- problems that were kept

    def keep(
        self,
        problem: Problem,
        split: Split,
        place: str,
        answer_kind: str,
        marks: Marks,
        sizes: Sequence[tuple[int, int]],
        repeats: int | None,
    ) -> tuple[dict[str, Any], int]:
        """Add a problem that will be in the dataset; what `waiting` will give of it.

        Args:
            problem: as it will be stored.
            split: its split.
            place: where its row stands in the source.
            answer_kind: what `card.answer_kind` says of its answer.
            marks: what its duplicates are found by.
            sizes: widths and heights of its images.
            repeats: the number of the problem that it repeats, where it is kept all the same.
        """
        number = self._next
        self._next += 1
        self._file.execute(
            "INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            number, split, place, problem.id, problem.answer, answer_kind,
            marks.content, len(problem.images), repeats,
        )  # fmt: skip
        self._file.execute("INSERT INTO tiles VALUES (?, ?)", number, marks.tiles)
        self._looks.add(marks.question, number, marks.looks, len(problem.images))
        self._file.execute_each(
            "INSERT INTO sizes VALUES (?, ?, ?)", ((number, *size) for size in sizes)
        )
        row = problem_row(problem)
        without = {name: value for name, value in row.items() if name != "images"}
        text = json.dumps(without, ensure_ascii=False)
        size = sum(map(len, problem.images)) + len(text)
        self._file.execute("INSERT INTO waiting VALUES (?, ?, ?)", number, text, size)
        self._file.execute_each(
            "INSERT INTO waiting_images VALUES (?, ?, ?)",
            ((number, part, data) for part, data in enumerate(problem.images)),
        )
        self.waiting_bytes += size
        self.unsaved += size
        return row, size

    def with_id(self, id: str) -> Kept | None:
        """The kept problem with this id."""
        return next(self._kept("id = ?", id), None)

    def with_content(self, content: bytes) -> Kept | None:
        """The first kept problem with exactly this content."""
        return next(self._kept("content = ? ORDER BY number LIMIT 1", content), None)

    def numbered(self, number: int) -> Kept:
        """The kept problem with this number."""
        return next(self._kept("number = ?", number))

    def alike(self, question: bytes, looks: Sequence[Look]) -> list[int]:
        """The numbers of the kept problems that may have copies of these images, likest first."""
        return self._looks.near(question, looks)

    def tiles(self, number: int) -> bytes:
        """The tiles of the images of a kept problem, packed."""
        return next(self._file.rows("SELECT tiles FROM tiles WHERE number = ?", number))[0]

    def withdraw(self, number: int) -> None:
        """Take a kept problem out of the dataset; its duplicates are still found."""
        self._file.execute("UPDATE kept SET withdrawn = 1 WHERE number = ?", number)
        self._file.execute("DELETE FROM sizes WHERE number = ?", number)

    def count(self, split: Split) -> int:
        """How many problems of the split are kept."""
        query = "SELECT COUNT(*) FROM kept WHERE split = ? AND NOT withdrawn"
        return self._file.number(query, split)

    # --- shards

    def waiting(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The kept problems that are in no shard yet, as rows and their sizes in bytes."""
        rows = self._file.rows("SELECT number, row, bytes FROM waiting ORDER BY number")
        for number, text, size in rows:
            images = [{"bytes": data, "path": None} for data in self.images_waiting(number)]
            yield json.loads(text) | {"images": images}, size

    def images_waiting(self, number: int) -> tuple[bytes, ...]:
        """The images of a kept problem that is in no shard yet; empty where it is in one."""
        query = "SELECT data FROM waiting_images WHERE number = ? ORDER BY part"
        return tuple(data for (data,) in self._file.rows(query, number))

    def add_shard(self, split: Split, shard: int, digest: str) -> None:
        """Note, for good, that all that waited is in this shard of the split, and its digest."""
        query = "INSERT INTO shards SELECT MIN(number), ?, ?, ? FROM waiting"
        self._file.execute(query, split, shard, digest)
        self._file.empty("waiting")
        self._file.empty("waiting_images")
        self.waiting_bytes = 0
        self.commit()

    def shard_count(self, split: Split) -> int:
        """How many shards of the split are written."""
        return self._file.number("SELECT COUNT(*) FROM shards WHERE split = ?", split)

    def shard_of(self, number: int) -> tuple[Split, int, int]:
        """Split and number of the shard that a kept problem is in, and its place in it."""
        query = (
            "SELECT first, split, shard FROM shards WHERE first <= ? ORDER BY first DESC LIMIT 1"
        )
        for first, split, shard in self._file.rows(query, number):
            return split, shard, number - first
        raise KeyError(number)

    def note_shard(self, split: Split, shard: int, digest: str) -> None:
        """Note, for good, the digest of a shard that was written again."""
        query = "UPDATE shards SET digest = ? WHERE split = ? AND shard = ?"
        self._file.execute(query, digest, split, shard)
        self.commit()

    def digests(self, split: Split) -> Mapping[int, str | None]:
        """The digest of each shard of the split; None where an older version wrote it."""
        query = "SELECT shard, digest FROM shards WHERE split = ? ORDER BY first"
        return dict(self._file.rows(query, split))

    def shards(self, split: Split) -> Iterator[tuple[int, frozenset[str]]]:
        """The shards of the split, each with the ids of its problems that were withdrawn."""
        query = "SELECT shard, first FROM shards WHERE split = ? ORDER BY first"
        firsts: dict[int, int] = dict(self._file.rows(query, split))
        for shard, first in firsts.items():
            after = firsts.get(shard + 1, self._next)
            found = self._file.rows(
                "SELECT id FROM kept WHERE number >= ? AND number < ? AND withdrawn", first, after
            )
            yield shard, frozenset(id for (id,) in found)

    # --- rejected rows and repeats

    def reject(
        self, split: Split, place: str, id: str, reason: str, summary: str, rejection: Rejection
    ) -> None:
        """Add a row that will not be in the dataset; `summary` is what like reasons share."""
        self._file.execute(
            "INSERT INTO rejected VALUES (NULL, ?, ?, ?, ?, ?, ?)",
            split, place, id, reason, summary, rejection,
        )  # fmt: skip

    def rejected(self) -> Iterator[Mapping[str, str]]:
        """The rejected rows: split, row, id and reason."""
        query = "SELECT split, row, id, reason FROM rejected ORDER BY number"
        for split, row, id, reason in self._file.rows(query):
            yield {"split": split, "row": row, "id": id, "reason": reason}

    def rejected_count(self, *rejections: Rejection) -> int:
        """How many rows were rejected as one of `rejections`."""
        marks = ", ".join("?" * len(rejections))
        query = f"SELECT COUNT(*) FROM rejected WHERE kind IN ({marks})"
        return self._file.number(query, *rejections)

    def reasons(self, most: int, rejection: Rejection | None = None) -> Mapping[str, int]:
        """The summaries of the reasons and how many rows each cost, the most frequent first."""
        query = """SELECT summary, COUNT(*) AS rows FROM rejected WHERE kind = ?1 OR ?1 IS NULL
            GROUP BY summary ORDER BY rows DESC, summary LIMIT ?2"""
        return dict(self._file.rows(query, rejection, most))

    def repeats_kept(self) -> Mapping[str, int]:
        """How many problems of a split repeat another one of it, and stayed."""
        query = """SELECT split, COUNT(*) FROM kept WHERE repeats IS NOT NULL
            GROUP BY split ORDER BY split"""
        return dict(self._file.rows(query))

    def _kept(self, condition: str, *values: object) -> Iterator[Kept]:
        columns = "number, split, place, id, answer, withdrawn"
        for row in self._file.rows(f"SELECT {columns} FROM kept WHERE {condition}", *values):
            number, split, place, id, answer, withdrawn = row
            yield Kept(number, split, place, id, answer, bool(withdrawn))


class CardNumbers:
    """What the card tells of the problems that were kept and not withdrawn."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    def sides(self, split: Split) -> Iterator[tuple[int, int, int]]:
        """Number, width and height of the figures of the split's problems, in their order."""
        query = """SELECT kept.number, width, height FROM kept JOIN sizes USING (number)
            WHERE split = ? AND NOT withdrawn ORDER BY kept.number, sizes.rowid"""
        return self._file.rows(query, split)

    def answer_kinds(self) -> Mapping[str, int]:
        """How many problems have an answer of each kind, the most frequent first."""
        query = """SELECT kind, COUNT(*) AS problems FROM kept WHERE NOT withdrawn
            GROUP BY kind ORDER BY problems DESC, kind"""
        return dict(self._file.rows(query))

    def images_each(self) -> Mapping[int, int]:
        """How many problems have one image, two, ..."""
        query = """SELECT images, COUNT(*) FROM kept WHERE NOT withdrawn
            GROUP BY images ORDER BY images"""
        return dict(self._file.rows(query))

    def spread(self, value: str) -> tuple[int, int, int]:
        """Smallest, median and largest of `value`, an expression in an image's width and height."""
        middle = self._file.number("SELECT COUNT(*) FROM sizes") // 2
        place = f"SELECT {value} FROM sizes ORDER BY {value} LIMIT 1 OFFSET ?"
        return (
            self._file.number(f"SELECT MIN({value}) FROM sizes"),
            self._file.number(place, middle),
            self._file.number(f"SELECT MAX({value}) FROM sizes"),
        )
