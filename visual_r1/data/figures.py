"""Which problems of a set belong together, because they show a picture that another one shows.

A test problem whose figure was trained on measures less than it seems to. So where a set is cut,
problems that share a picture, directly or through others (A and B show one, B and C another), stay
on one side. Their group is known by the least of their ids, the shorter one first: a group of one
is cut just as by its id, and questions that are added to a figure later, under later ids, leave it
where it was.

A million rows take 24 bytes each, and those that share a picture an id for each of their groups.
"""

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visual_r1.data.duplicates import MAX_COMPARED
from visual_r1.data.fingerprint import near, packed, same_picture, tiles_differ
from visual_r1.data.rows import CheckedRow
from visual_r1.hashing import content_digest

_HEX = 16  # digits of a digest that a mark keeps: 64 bits
_PAIRS = 32  # that are held against each other at a time


class FigureGroups:
    """Rows 0, 1, ... of a set, and which of them belong together."""

    def __init__(self) -> None:
        self._rows = array("q")
        self._marks = array("Q")

    def add(self, row: int, id: str, pictures: Iterable[bytes]) -> None:
        """Add a row that has this id and these pictures, each of which may stand for itself as its
        digest. Rows that share any of it belong together."""
        parts = (b"i" + id.encode("utf-8", "backslashreplace"), *(b"p" + one for one in pictures))
        for part in parts:
            self._rows.append(row)
            self._marks.append(int(content_digest(part)[:_HEX], 16))

    def of_rows(self, count: int, pairs: Iterable[tuple[int, int]] = ()) -> NDArray[np.int64]:
        """The group [count] of each row, as the number of its first row.

        Args:
            count: how many rows there are.
            pairs: further rows that belong together.
        """
        rows = np.frombuffer(self._rows, np.int64)
        marks = np.frombuffer(self._marks, np.uint64)
        order = np.argsort(marks, kind="stable")
        same = np.flatnonzero(marks[order][1:] == marks[order][:-1])
        first = array("q", range(count))

        def root(row: int) -> int:
            while first[row] != row:
                first[row] = row = first[first[row]]
            return row

        found: Iterator[tuple[int, int]] = zip(
            rows[order][same].tolist(), rows[order][same + 1].tolist(), strict=True
        )
        for some in (found, pairs):
            for one, other in some:
                low, high = sorted((root(one), root(other)))
                first[high] = low
        groups = np.array(first, np.int64)
        while (shorter := groups[groups]).tobytes() != groups.tobytes():
            groups = shorter
        return groups


def group_keys(
    groups: NDArray[np.int64], hashes: NDArray[np.uint32], ids: Iterable[str]
) -> NDArray[np.uint32]:
    """The hash [rows] that each row is cut by: that of its group's least id.

    Args:
        groups: the group [rows] of each row.
        hashes: the hash [rows] of each row's own id.
        ids: of all rows, in their order.
    """
    sizes = np.bincount(groups, minlength=len(groups))
    if sizes.max(initial=0) < 2:
        return hashes
    least: dict[int, tuple[int, str, int]] = {}
    for row, (shared, id) in enumerate(zip((sizes[groups] > 1).tolist(), ids, strict=True)):
        if shared:
            group, named = int(groups[row]), (len(id), id, row)
            least[group] = min(least.get(group, named), named)
    keys = hashes.copy()
    for group, (_, _, row) in least.items():
        keys[group] = hashes[row]
    return keys[groups]


@dataclass(frozen=True, slots=True)
class _Picture:
    """Which picture of which row, and its tiles, packed."""

    row: int
    part: int
    tiles: bytes


ImagesOf = Callable[[Collection[int]], Mapping[int, Sequence[bytes]]]
"""The checked images of some rows."""


class AlikePictures:
    """The pictures of a small set that may be copies of each other, encoded again or resized."""

    def __init__(self) -> None:
        self._known = set[bytes]()
        self._pictures = list[_Picture]()
        self._looks = bytearray()
        self._pairs = list[tuple[_Picture, _Picture]]()

    def add(self, row: int, checked: CheckedRow) -> None:
        """Look for those that are alike among the rows before; what is the same pixel by pixel is
        looked for once."""
        parts = zip(checked.pixels, checked.looks, checked.tiles, strict=True)
        for part, (pixels, look, tiles) in enumerate(parts):
            if pixels in self._known:
                continue
            mine = _Picture(row, part, packed((tiles,)))
            places, apart = near((look,), bytes(self._looks))
            nearest: list[int] = places[np.argsort(apart, kind="stable")].tolist()
            for place in nearest[:MAX_COMPARED]:
                other = self._pictures[place]
                if not tiles_differ((tiles,), other.tiles):
                    self._pairs.append((other, mine))
            self._known.add(pixels)
            self._pictures.append(mine)
            self._looks += look.to_bytes()

    def rows(self, images_of: ImagesOf) -> Iterator[tuple[int, int]]:
        """Pairs of rows one of whose pictures is the same; few at a time are asked for."""
        for start in range(0, len(self._pairs), _PAIRS):
            some = self._pairs[start : start + _PAIRS]
            images = images_of({one.row for pair in some for one in pair})
            for one, other in some:
                if same_picture(images[one.row][one.part], images[other.row][other.part]):
                    yield one.row, other.row
