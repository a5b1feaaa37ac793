"""Finds the pictures that look like new ones, of those that were asked the same, on disk.

All looks under one question form a k-d tree (Bentley 1975, doi:10.1145/361002.361007): an inner
node splits them at a bound of one of their numbers, a leaf holds them. A search goes to both sides
of a bound that is nearer than a copy can be, and so finds just what a scan of all would find, from
a few leaves. Sets of drawings ask a few questions of ever more pictures, all alike from afar: a
scan would take longer with each of them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from visual_r1.data.fingerprint import Look, near, points
from visual_r1.data.state_file import StateFile

TABLES = """
CREATE TABLE look_trees (question BLOB PRIMARY KEY, node INTEGER) WITHOUT ROWID;
CREATE TABLE look_splits (node INTEGER PRIMARY KEY, place INTEGER, bound REAL, below INTEGER);
CREATE TABLE looks (
    node INTEGER, part INTEGER, numbers BLOB, looks BLOB, PRIMARY KEY (node, part)) WITHOUT ROWID;
"""

# A split must spare a search this much of the leaf.
_WORTH = 0.1
# Where a bound may be: at these places of a leaf's sorted numbers.
_SHARES = np.linspace(0.25, 0.75, 9)
# Looks that are compared at a time, and inner nodes that are kept in memory.
_AT_ONCE = 4096
_KEPT_SPLITS = 16_384


class _Split(NamedTuple):
    """An inner node: what is less than `bound` at `place` is in node `below`, the rest in the next.

    Plain types, since many are kept.
    """

    place: int
    bound: float
    below: int


class LookIndex:
    """The looks in a preparation's file, by the question that was asked of them."""

    def __init__(self, file: StateFile, split_at: int = 128, part: int = 32) -> None:
        """A leaf is split when it holds `split_at`, or twice, four times as many where it could not
        be; it is kept in parts of `part`, of which the last is written again with each look."""
        self._file, self._split_at, self._part = file, split_at, part
        self._splits: dict[int, _Split] = {}
        self._next = 1 + max(
            file.number("SELECT IFNULL(MAX(node), 0) FROM look_trees"),
            file.number("SELECT IFNULL(MAX(below) + 1, 0) FROM look_splits"),
        )

    def add(self, question: bytes, number: int, looks: bytes, images: int) -> None:
        """File a problem under its number: the looks of its so many pictures, one behind another.

        A question stands for one number of pictures.
        """
        node = self._root(question)
        if node is None:
            node = self._new(1)
            self._file.execute("INSERT INTO look_trees VALUES (?, ?)", question, node)
        point = points(looks, images)[0]
        while (split := self._split(node)) is not None:
            node = split.below + bool(point[split.place] >= split.bound)
        query = "SELECT part, numbers, looks FROM looks WHERE node = ? ORDER BY part DESC LIMIT 1"
        part, numbers, stored = next(self._file.rows(query, node), (0, b"", b""))
        if len(numbers) == 8 * self._part:
            part, numbers, stored = part + 1, b"", b""
        numbers += np.array([number]).tobytes()
        self._file.execute(
            "INSERT OR REPLACE INTO looks VALUES (?, ?, ?, ?)", node, part, numbers, stored + looks
        )
        count = part * self._part + len(numbers) // 8
        if count >= self._split_at and count & (count - 1) == 0:
            self._divide(node, images)

    def near(self, question: bytes, looks: Sequence[Look]) -> list[int]:
        """Which problems may have copies of these pictures (`fingerprint.near`), likest first."""
        numbers: list[NDArray[np.int64]] = []
        distances: list[NDArray[np.float32]] = []
        for some, stored in self._leaves(question, looks):
            places, apart = near(looks, stored)
            numbers.append(np.frombuffer(some, np.int64)[places])
            distances.append(apart)
        if not numbers:
            return []
        found, apart = np.concatenate(numbers), np.concatenate(distances)
        return cast("list[int]", found[np.lexsort((found, apart))].tolist())

    def _leaves(self, question: bytes, looks: Sequence[Look]) -> Iterator[tuple[bytes, bytes]]:
        """Numbers and looks of all leaves in reach, some leaves at a time."""
        root = self._root(question)
        if root is None:
            return
        point = points(b"".join(look.to_bytes() for look in looks), len(looks))[0]
        nodes, numbers, stored = [root], b"", b""
        while nodes:
            node = nodes.pop()
            split = self._split(node)
            if split is None:
                some, more = self._leaf(node)
                numbers, stored = numbers + some, stored + more
                if len(numbers) >= _AT_ONCE * 8:
                    yield numbers, stored
                    numbers, stored = b"", b""
                continue
            value = float(point[split.place])
            if value - 1 < split.bound:
                nodes.append(split.below)
            if value + 1 >= split.bound:
                nodes.append(split.below + 1)
        if numbers:
            yield numbers, stored

    def _root(self, question: bytes) -> int | None:
        query = "SELECT node FROM look_trees WHERE question = ?"
        return next((node for (node,) in self._file.rows(query, question)), None)

    def _new(self, count: int) -> int:
        first = self._next
        self._next += count
        return first

    def _split(self, node: int) -> _Split | None:
        """The inner node, or None where it is a leaf."""
        split = self._splits.get(node)
        if split is None:
            query = "SELECT place, bound, below FROM look_splits WHERE node = ?"
            for values in self._file.rows(query, node):
                split = self._remember(node, _Split(*values))
        return split

    def _remember(self, node: int, split: _Split) -> _Split:
        if len(self._splits) >= _KEPT_SPLITS:
            self._splits.clear()
        self._splits[node] = split
        return split

    def _leaf(self, node: int) -> tuple[bytes, bytes]:
        query = "SELECT numbers, looks FROM looks WHERE node = ? ORDER BY part"
        parts = list(self._file.rows(query, node))
        return b"".join(part[0] for part in parts), b"".join(part[1] for part in parts)

    def _divide(self, node: int, images: int) -> None:
        """Make an inner node of a leaf and two leaves below it, where that spares searches."""
        numbers, looks = self._leaf(node)
        filed = points(looks, images)
        found = _best_split(filed)
        if found is None:
            return
        place, bound = found
        split = self._remember(node, _Split(place, bound, self._new(2)))
        self._file.execute("INSERT INTO look_splits VALUES (?, ?, ?, ?)", node, *split)
        self._file.execute("DELETE FROM looks WHERE node = ?", node)
        one, size = 8, len(looks) // len(filed)
        above = filed[:, place] >= bound
        for child, chosen in ((split.below, ~above), (split.below + 1, above)):
            places: list[int] = np.flatnonzero(chosen).tolist()
            for part, start in enumerate(range(0, len(places), self._part)):
                some = places[start : start + self._part]
                self._file.execute(
                    "INSERT INTO looks VALUES (?, ?, ?, ?)", child, part,
                    b"".join(numbers[one * i : one * (i + 1)] for i in some),
                    b"".join(looks[size * i : size * (i + 1)] for i in some),
                )  # fmt: skip


def _best_split(filed: NDArray[np.float32]) -> tuple[int, float] | None:
    """The number and the bound at which searches for [n, numbers] of them see the fewest."""
    count = len(filed)
    ordered = np.sort(filed, axis=0)
    # [bounds, numbers]
    bounds = ordered[(_SHARES * count).astype(int)]
    # [bounds, n, numbers], averaged over n: the share of a side, and of searches that go there.
    values = filed[None]
    below = (values < bounds[:, None]).mean(axis=1)
    to_below = (values - 1 < bounds[:, None]).mean(axis=1)
    to_above = (values + 1 >= bounds[:, None]).mean(axis=1)
    seen = below * to_below + (1 - below) * to_above
    best, place = np.unravel_index(np.argmin(seen), seen.shape)
    if seen[best, place] > 1 - _WORTH:
        return None
    return int(place), float(bounds[best, place])
