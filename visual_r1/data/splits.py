"""Where the rows of each split come from: the source's own splits, or a cut of its train.

Where the source has a train split alone, it is cut by a hash of the ids: the `TEST_SHARE` with the
smallest hashes become test, the next `VALIDATION_SHARE` validation. Which side a problem falls on
depends on its id and the seed, never on its place in the source.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from visual_r1.data.checking import Checking
from visual_r1.data.preparation_state import PreparationState
from visual_r1.data.problem import SPLITS, Split
from visual_r1.data.rows import Outcome
from visual_r1.data.sources.source import Source
from visual_r1.hashing import stable_seed
from visual_r1.progress import Progress

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
# Where only train is there and it is this small, rows are checked before it is split, so that a
# bad row cannot leave test empty.
SMALL = 2000
_SHOWN_EACH = 1000

# What is remembered of a small set that was checked: pictures and their tiles.
REMEMBERED_BYTES = 32 * 2**20

# From row number `start` of the split's source on: how many rows are used up, and what became of
# the last of them.
OutcomesFrom = Callable[[int], Iterator[tuple[int, Outcome]]]


@dataclass(frozen=True, slots=True)
class HashCut:
    """Hashes below `test_below` are test, those from there to `validation_below` validation."""

    test_below: int
    validation_below: int

    @classmethod
    def of(cls, hashes: NDArray[np.uint32]) -> "HashCut":
        """The cut of ids with these hashes, with the sizes that `cut_sizes` gives."""
        keys = np.unique(hashes)
        test, validation = cut_sizes(len(keys))
        # So many of the sorted keys lie below a bound; one at least, in train, lies above both.
        bounds = (int(keys[count]) if count else 0 for count in (test, test + validation))
        return cls(*bounds)

    def members(self, hashes: NDArray[np.uint32], split: Split) -> NDArray[np.bool_]:
        """Which of the ids with these hashes are in the split."""
        below = hashes < self.validation_below
        test = hashes < self.test_below
        return {"test": test, "validation": below & ~test, "train": ~(below | test)}[split]


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


def split_outcomes(
    source: Source,
    seed: int,
    sizes: Mapping[Split, int],
    state: PreparationState,
    checking: Checking,
    progress: Progress,
) -> Mapping[Split, OutcomesFrom]:
    """What becomes of the rows of each split; a cut is noted in `state`, and stays as it is."""

    def own(split: Split, start: int) -> Iterator[tuple[int, Outcome]]:
        return checking.outcomes(enumerate(source.rows(split, start), start + 1))

    if set(sizes) != {"train"}:
        return {split: partial(own, split) for split in sizes}
    bounds, size = state.setting("cut"), sizes["train"]
    checked: Sequence[Outcome] | None = None
    if size > SMALL:
        progress.start("read the ids", size, "rows")
    hashes = _hashes(seed, _shown(source.ids("train"), progress))
    if bounds is None:
        if size <= SMALL:
            good, checked = _checked(source, checking)
            cut = HashCut.of(hashes[good])
        else:
            cut = HashCut.of(hashes)
        state.set_setting("cut", [cut.test_below, cut.validation_below])
        state.commit()
    else:
        cut = HashCut(*bounds)

    def cut_off(split: Split, start: int) -> Iterator[tuple[int, Outcome]]:
        mine = cut.members(hashes, split)
        numbers: list[int] = (start + np.flatnonzero(mine[start:]) + 1).tolist()
        if checked is not None:
            return ((number, checked[number - 1]) for number in numbers)
        rows = source.rows("train", start, lambda number: bool(mine[number]))
        return checking.outcomes(zip(numbers, rows, strict=False))

    return {split: partial(cut_off, split) for split in SPLITS}


def _hashes(seed: int, ids: Iterable[str]) -> NDArray[np.uint32]:
    """Four bytes an id, for sets of millions."""
    return np.fromiter((stable_seed("split", seed, id) for id in ids), np.uint32)


def _shown(ids: Iterable[str], progress: Progress) -> Iterator[str]:
    for number, id in enumerate(ids, 1):
        if number % _SHOWN_EACH == 0:
            progress.advance(_SHOWN_EACH)
        yield id


def _checked(
    source: Source, checking: Checking
) -> tuple[NDArray[np.bool_], Sequence[Outcome] | None]:
    """Which rows are good, and what became of all of them where that is little to remember.

    Where it is not, `checking` remembers the pictures that it can, and decodes those no more.
    """
    good, kept, size = list[bool](), list[Outcome](), 0
    for _, outcome in checking.outcomes(enumerate(source.rows("train"))):
        checked = outcome.checked
        good.append(checked is not None)
        if checked is not None:
            size += sum(map(len, (*checked.problem.images, *checked.tiles)))
        if size <= REMEMBERED_BYTES:
            kept.append(outcome)
        else:
            kept.clear()
    return np.array(good, np.bool_), kept if size <= REMEMBERED_BYTES else None
