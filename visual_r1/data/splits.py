"""Where the rows of each split come from: the source's own splits, or a cut of its train.

Where the source has a train split alone, it is cut by a hash of the ids: the `TEST_SHARE` with the
smallest hashes become test, the next `VALIDATION_SHARE` validation. Which side a problem falls on
depends on its id and the seed, never on its place in the source.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from visual_r1.data.preparation_state import PreparationState
from visual_r1.data.problem import SPLITS, Split
from visual_r1.data.rows import BadRow, SourceRow, check_row
from visual_r1.data.sources.source import Source
from visual_r1.hashing import stable_seed
from visual_r1.progress import Progress

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
# Where only train is there and it is this small, rows are checked before it is split, so that a
# bad row cannot leave test empty.
SMALL = 2000

# From row number `start` of the split's source on: how many rows are used up, and the row.
RowsFrom = Callable[[int], Iterator[tuple[int, SourceRow]]]


@dataclass(frozen=True, slots=True)
class HashCut:
    """Hashes below `test_below` are test, those from there to `validation_below` validation."""

    seed: int
    test_below: int
    validation_below: int

    @classmethod
    def of(cls, seed: int, ids: Iterable[str]) -> "HashCut":
        """The cut for these ids, with the sizes that `cut_sizes` gives."""
        # Four bytes an id, for sets of millions.
        keys = np.unique(np.fromiter((stable_seed("split", seed, id) for id in ids), np.uint32))
        test, validation = cut_sizes(len(keys))
        # So many of the sorted keys lie below a bound; one at least, in train, lies above both.
        bounds = (int(keys[count]) if count else 0 for count in (test, test + validation))
        return cls(seed, *bounds)

    def split_of(self, id: str) -> Split:
        """The split of the problem with this id."""
        key = stable_seed("split", self.seed, id)
        if key < self.test_below:
            return "test"
        return "validation" if key < self.validation_below else "train"


def cut_sizes(count: int) -> tuple[int, int]:
    """How many of `count` problems become test, and how many validation.

    Shares are rounded; of two problems or more at least one is in test, and fewer than five have no
    validation. Ten problems become seven, one and two.
    """
    test = min(max(1, round(count * TEST_SHARE)), max(0, count - 1))
    return test, min(math.floor(count * VALIDATION_SHARE + 0.5), max(0, count - test - 1))


def expected_rows(
    sizes: Mapping[Split, int], limits: Mapping[Split, int | None]
) -> Mapping[Split, int]:
    """How many rows will be looked at, as far as the sizes tell; a hash cut looks at all."""
    if set(sizes) == {"train"}:
        return sizes
    return {split: min(size, limits[split] or size) for split, size in sizes.items()}


def split_rows(
    source: Source,
    seed: int,
    sizes: Mapping[Split, int],
    state: PreparationState,
    progress: Progress,
) -> Mapping[Split, RowsFrom]:
    """Where the rows of each split come from; a cut is noted in `state`, and stays as it is."""

    def own(split: Split, start: int) -> Iterator[tuple[int, SourceRow]]:
        return enumerate(source.rows(split, start), start + 1)

    if set(sizes) != {"train"}:
        return {split: partial(own, split) for split in sizes}
    bounds = state.setting("cut")
    if bounds is None:
        cut = HashCut.of(seed, _ids(source, sizes["train"], progress))
        bounds = [cut.test_below, cut.validation_below]
        state.set_setting("cut", bounds)
        state.commit()
    cut = HashCut(seed, *bounds)

    def cut_off(split: Split, start: int) -> Iterator[tuple[int, SourceRow]]:
        return ((used, row) for used, row in own("train", start) if cut.split_of(row.id) == split)

    return {split: partial(cut_off, split) for split in SPLITS}


def _ids(source: Source, size: int, progress: Progress) -> Iterator[str]:
    """The ids to cut by: of a small split those of its good rows, else all."""
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
