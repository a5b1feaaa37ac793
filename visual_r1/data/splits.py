"""Where the rows of each split come from: the source's own splits, or a cut of its train.

A train split alone, cut into train, validation and test by a hash of the ids.

The `TEST_SHARE` with the smallest hashes become test, the next `VALIDATION_SHARE` validation. Which
side a problem falls on depends on its id and the seed, never on its place in the source.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visual_r1.data.journal import Journal
from visual_r1.data.rows import BadRow, SourceRow, check_row
from visual_r1.data.sources.source import SPLITS, Source, Split
from visual_r1.hashing import stable_seed
from visual_r1.progress import Progress

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class HashSplit:
    """Hashes below `test_below` are test, those from there to `validation_below` validation."""

    seed: int
    test_below: int
    validation_below: int

    def split_of(self, id: str) -> Split:
        """The split of the problem with this id."""
        key = split_key(self.seed, id)
        if key < self.test_below:
            return "test"
        return "validation" if key < self.validation_below else "train"


def split_key(seed: int, id: str) -> int:
    """What ids are ordered by."""
    return stable_seed("split", seed, id)


def hash_split(seed: int, ids: Iterable[str]) -> HashSplit:
    """The cut for these ids: shares rounded, of two problems or more at least one in test.

    Ten problems become seven, one and two; fewer than five have no validation.
    """
    # Four bytes an id, for sets of millions.
    keys = np.unique(np.fromiter((split_key(seed, id) for id in ids), np.uint32))
    test, validation = cut_sizes(len(keys))
    return HashSplit(seed, _bound(keys, test), _bound(keys, test + validation))


def cut_sizes(count: int) -> tuple[int, int]:
    """How many of `count` problems become test, and how many validation."""
    test = min(max(1, round(count * TEST_SHARE)), max(0, count - 1))
    return test, min(math.floor(count * VALIDATION_SHARE + 0.5), max(0, count - test - 1))


def _bound(keys: NDArray[np.uint32], count: int) -> int:
    """A number that exactly `count` of the sorted `keys` lie below."""
    if count == 0:
        return 0
    return int(keys[count]) if count < len(keys) else int(keys[-1]) + 1


# Where only train is there and it is this small, rows are checked before it is split, so that a
# bad row cannot leave test empty.
SMALL = 2000

# From row number `start` of the split's source on: how many rows are used up, and the row.
Rows = Callable[[int], Iterator[tuple[int, SourceRow]]]


def expected_rows(
    sizes: Mapping[Split, int], limits: Mapping[Split, int | None]
) -> Mapping[Split, int]:
    """How many rows will be looked at, as far as the sizes tell; a hash split looks at all."""
    if set(sizes) == {"train"}:
        return sizes
    return {split: min(size, limits[split] or size) for split, size in sizes.items()}


def split_rows(
    source: Source, seed: int, sizes: Mapping[Split, int], journal: Journal, progress: Progress
) -> Mapping[Split, Rows]:
    """Where the rows of each split come from: the source's own splits, or a cut of its train."""
    if set(sizes) != {"train"}:
        return {
            split: lambda start, split=split: _own_rows(source, split, start) for split in sizes
        }
    bounds = journal.setting("cut")
    if bounds is None:
        cut = hash_split(seed, _ids(source, sizes["train"], progress))
        bounds = [cut.test_below, cut.validation_below]
        journal.set_setting("cut", bounds)
        journal.commit()
    cut = HashSplit(seed, *bounds)
    return {
        split: lambda start, split=split: _cut_rows(source, cut, split, start) for split in SPLITS
    }


def _ids(source: Source, size: int, progress: Progress) -> Iterator[str]:
    if size > SMALL:
        progress.start("read the ids", size, "rows")
    for row in source.rows("train"):
        if size <= SMALL:
            try:
                check_row(row)
            except BadRow:
                continue
        else:
            progress.advance(1)
        yield row.id


def _own_rows(source: Source, split: Split, start: int) -> Iterator[tuple[int, SourceRow]]:
    return enumerate(source.rows(split, start), start + 1)


def _cut_rows(
    source: Source, cut: HashSplit, split: Split, start: int
) -> Iterator[tuple[int, SourceRow]]:
    rows = enumerate(source.rows("train", start), start + 1)
    return ((used, row) for used, row in rows if cut.split_of(row.id) == split)
