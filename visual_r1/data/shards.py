"""Problems to Parquet shards and back, a row group at a time, so that memory holds few of them."""

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

from visual_r1.data.parquet import (
    PROBLEM_SCHEMA,
    GroupWriter,
    OpenFile,
    Table,
    read_groups,
    read_rows,
)
from visual_r1.data.problem import Problem
from visual_r1.tables import said_of

SHARD_BYTES = 256 * 2**20
# What is kept of row groups: a step's problems are drawn from all over the split.
CACHED_BYTES = 64 * 2**20
MOST_OPEN = 64
"""Shards that are open at a time; a process may have some hundreds of files."""

_WAY_OUT = "start the same command again, which prepares the dataset anew where it is damaged"
_WITHOUT_FIGURE = {"id": "", "images": (), "problem": "", "answer": "", "choices": ()}


def unfinished_shard(folder: Path, split: str, shard: int) -> Path:
    """Where a shard is until it is known how many its split has."""
    return folder / f"{split}-{shard:05d}.part"


def finished_shard(folder: Path, split: str, shard: int, shards: int) -> Path:
    """Where a shard is in the end: `train-00000-of-00002.parquet`."""
    return folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet"


def write_shard(path: Path, rows: Iterable[tuple[Mapping[str, Any], int]]) -> None:
    """Write rows of `PROBLEM_SCHEMA`, each with its size in bytes, whole or not at all."""
    with closing(GroupWriter(path, PROBLEM_SCHEMA)) as shard:
        for row, size in rows:
            shard.write(row, size)
        shard.finish()


def leave_out(path: Path, ids: Collection[str], into: Path) -> None:
    """Write a shard again, as `into`, without the problems that have these ids."""
    rows = (
        (row, sum(len(image["bytes"]) for image in row["images"]))
        for group in read_groups(path)
        for row in group.to_pylist()
        if row["id"] not in ids
    )
    write_shard(into, rows)


def problem_row(problem: Problem) -> dict[str, Any]:
    """A problem as a row of `PROBLEM_SCHEMA`."""
    return {
        "id": problem.id,
        "images": [{"bytes": data, "path": None} for data in problem.images],
        "problem": problem.problem,
        "answer": problem.answer,
        "choices": list(problem.choices),
        "source": problem.source,
        "meta": json.dumps(dict(problem.meta), ensure_ascii=False, default=str),
    }


def problem_of_row(row: Mapping[str, Any]) -> Problem:
    """The inverse of `problem_row`; errors as they come where the row is damaged."""
    return Problem(
        id=row["id"],
        images=tuple(image["bytes"] for image in row["images"]),
        problem=row["problem"],
        answer=row["answer"],
        choices=tuple(row["choices"]),
        source=row["source"],
        meta=json.loads(row["meta"]),
    )


class StoredProblems(Sequence[Problem]):
    """The problems of Parquet shards by index, read a row group at a time when they are wanted.

    Memory holds where the row groups are, the footers of the shards that are open, and the row
    groups last used: at least one, and of several at most `CACHED_BYTES`. Threads may share it.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, Table] = OrderedDict()
        self._cached_bytes = 0
        self._open: OrderedDict[Path, OpenFile] = OrderedDict()
        self._groups: list[tuple[Path, int]] = []
        self._starts: list[int] = []
        self._length = 0
        self._files = list(files)
        for path in files:
            for group, rows in enumerate(self._opened(path).group_sizes):
                self._groups.append((path, group))
                self._starts.append(self._length)
                self._length += rows

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        place = index + self._length if index < 0 else index
        if not 0 <= place < self._length:
            raise IndexError(f"problem {index} of {self._length}")
        group = bisect_right(self._starts, place) - 1
        with said_of(self._groups[group][0], _WAY_OUT):
            return problem_of_row(self._row(group, place - self._starts[group]))

    def __iter__(self) -> Iterator[Problem]:
        return (self[index] for index in range(self._length))

    def ids(self) -> list[str]:
        """The id of each problem; nothing else is read for it."""
        return [row["id"] for path in self._files for row in read_rows(path, columns=("id",))]

    def answers(self) -> list[str]:
        """The gold answer of each problem; nothing else is read for it."""
        return [
            row["answer"] for path in self._files for row in read_rows(path, columns=("answer",))
        ]

    def families(self) -> list[str]:
        """The family of each problem; no image is read for it."""
        found: list[str] = []
        for path in self._files:
            with said_of(path, _WAY_OUT):
                rows = read_rows(path, columns=("source", "meta"))
                found += [problem_of_row({**_WITHOUT_FIGURE, **row}).family for row in rows]
        return found

    def without_figures(self) -> Iterator[Problem]:
        """The problems in their order, their texts alone; no image is read for it."""
        columns = ("id", "problem", "answer", "choices", "source", "meta")
        for path in self._files:
            for row in read_rows(path, columns=columns):
                yield problem_of_row({**row, "images": ()})

    def _row(self, group: int, index: int) -> dict[str, Any]:
        with self._lock:
            table = self._cache.get(group)
            if table is None:
                path, number = self._groups[group]
                table = self._opened(path).group(number)
                self._cache[group] = table
                self._cached_bytes += table.nbytes
                while self._cached_bytes > CACHED_BYTES and len(self._cache) > 1:
                    _, oldest = self._cache.popitem(last=False)
                    self._cached_bytes -= oldest.nbytes
            self._cache.move_to_end(group)
        return table.slice(index, 1).to_pylist()[0]

    def _opened(self, path: Path) -> OpenFile:
        file = self._open.get(path)
        if file is None:
            file = self._open[path] = OpenFile(path)
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return file


class KeptProblems(Sequence[Problem]):
    """The problems of a split without those at some places; the others move up.

    `answers` are gold answers, by places in the split, that hold in place of the stored ones.
    """

    def __init__(
        self,
        stored: StoredProblems,
        left_out: Collection[int] = (),
        answers: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        gone = set(left_out)
        self._stored, self._answers = stored, answers
        self._places = [place for place in range(len(stored)) if place not in gone]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        if isinstance(index, slice):
            return [self._at(place) for place in self._places[index]]
        return self._at(self._places[index])

    def __iter__(self) -> Iterator[Problem]:
        return map(self._at, self._places)

    def ids(self) -> list[str]:
        """The id of each problem; nothing else is read for it."""
        ids = self._stored.ids()
        return [ids[place] for place in self._places]

    def answers(self) -> list[str]:
        """The gold answer of each problem; nothing else is read for it."""
        answers = self._stored.answers()
        return [self._answers.get(place, answers[place]) for place in self._places]

    def families(self) -> list[str]:
        """The family of each problem; no image is read for it."""
        families = self._stored.families()
        return [families[place] for place in self._places]

    def _at(self, place: int) -> Problem:
        problem, answer = self._stored[place], self._answers.get(place)
        return problem if answer is None else replace(problem, answer=answer)
