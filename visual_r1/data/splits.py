"""Where the rows of each split come from: the source's own splits, or a cut of its train.

Where the source has a train split alone, it is cut by a hash of the ids: the `TEST_SHARE` with the
smallest hashes become test, the next `VALIDATION_SHARE` validation. Which side a problem falls on
depends on its id and the seed, never on its place in the source. Problems that share a figure stay
on one side (`figures`): a group of them is cut by one of its ids, and whole.

Figures are shared where their bytes are the same. Of a small set, which is checked before it is
cut, also where their pixels are, or one was encoded again or resized.
"""

import base64
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from visual_r1.data.checking import Checking
from visual_r1.data.figures import AlikePictures, FigureGroups, ImagesOf, group_keys
from visual_r1.data.preparation_state import PreparationState
from visual_r1.data.problem import SPLITS, Split
from visual_r1.data.rows import Outcome
from visual_r1.data.sources.source import Source
from visual_r1.hashing import stable_seed
from visual_r1.progress import Progress, Silent

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
# Where only train is there and it is this small, rows are checked before it is split, so that a
# bad row cannot leave test empty.
SMALL = 2000
_SHOWN_EACH = 1000

# What is remembered of a small set that was checked: pictures and their tiles.
REMEMBERED_BYTES = 32 * 2**20

# What the state notes of a cut: the sides, and what is told of them.
_SIDES, _TOLD, _BOUNDS = "sides", "cut told", "cut"

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

    def sides(self, hashes: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """The side [n] of each id, as its place in `SPLITS`, of their hashes [n]."""
        sides = np.full(len(hashes), SPLITS.index("train"), np.uint8)
        sides[hashes < self.validation_below] = SPLITS.index("validation")
        sides[hashes < self.test_below] = SPLITS.index("test")
        return sides


@dataclass(frozen=True, slots=True)
class Cut:
    """On which side each row is, as its place in `SPLITS`; and what is told of it.

    `told` counts the good rows (all rows of a set that is not small) as `problems`, their groups
    as `figures`, and as `shared` the problems of test and validation whose figure is trained on.
    """

    sides: NDArray[np.uint8]
    told: Mapping[str, int]


def cut_whole_figures(
    groups: NDArray[np.int64],
    keys: NDArray[np.uint32],
    hashes: NDArray[np.uint32],
    good: NDArray[np.bool_],
) -> Cut:
    """The cut whose sizes are nearest to those of `cut_sizes`, of whole groups.

    A group that holds more than all of test should goes to train, but for the smallest where all
    do. Where there is but one group, it is cut by its ids, and all of test is shared.

    Args:
        groups: the group [rows] of each row.
        keys: the hash [rows] of each row's group.
        hashes: the hash [rows] of each row's own id.
        good: which rows [rows] count.
    """
    found, firsts, sizes = np.unique(groups[good], return_index=True, return_counts=True)
    problems = int(good.sum())
    if len(found) < 2:
        sides = HashCut.of(hashes[good]).sides(hashes)
        shared = int((sides[good] != SPLITS.index("train")).sum())
        return Cut(sides, {"problems": problems, "figures": len(found), "shared": shared})
    test, validation = cut_sizes(problems)
    own = keys[good][firsts]
    large = sizes > max(test, 1)
    # The large ones last; where all are, the smallest come first.
    order = np.lexsort((own, sizes if large.all() else large))
    ends = np.cumsum(sizes[order])
    in_test = _nearest(ends, test, 1, len(found) - 1)
    least = in_test
    in_both = _nearest(ends, test + validation, least, len(found) - 1) if validation else least
    cut = np.full(len(found), SPLITS.index("train"), np.uint8)
    cut[order[in_test:in_both]] = SPLITS.index("validation")
    cut[order[:in_test]] = SPLITS.index("test")
    # Rows that are bad, and in no group of good ones, only have to be on some side.
    bounds = np.where(large, 2**32 - 1, own)[order[[in_test, in_both]]].tolist()
    sides = HashCut(*bounds).sides(keys)
    places = np.searchsorted(found, groups).clip(0, len(found) - 1)
    known = found[places] == groups
    sides[known] = cut[places[known]]
    return Cut(sides, {"problems": problems, "figures": len(found), "shared": 0})


def _nearest(ends: NDArray[np.int64], wanted: int, least: int, most: int) -> int:
    """How many groups, `least` to `most`, hold nearest to `wanted` problems; the fewer of two.

    `ends` [groups] is how many problems the first ones hold, up to each.
    """
    return least + int(np.argmin(np.abs(ends[least - 1 : most] - wanted)))


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
    *,
    whole_figures: bool = True,
) -> Mapping[Split, OutcomesFrom]:
    """What becomes of the rows of each split; a cut is noted in `state`, and stays as it is.

    Without `whole_figures` a set is cut by its ids alone, as it was up to version 3.
    """

    def own(split: Split, start: int) -> Iterator[tuple[int, Outcome]]:
        return checking.outcomes(enumerate(source.rows(split, start), start + 1))

    if set(sizes) != {"train"}:
        return {split: partial(own, split) for split in sizes}
    sides, checked = _noted(state), None
    if sides is None:
        cut, checked = _cut(source, seed, sizes["train"], state, checking, progress, whole_figures)
        sides = cut.sides
        state.set_setting(_SIDES, base64.b64encode(zlib.compress(sides.tobytes(), 1)).decode())
        state.set_setting(_TOLD, dict(cut.told))
        state.commit()

    def cut_off(split: Split, start: int) -> Iterator[tuple[int, Outcome]]:
        mine = sides == SPLITS.index(split)
        numbers: list[int] = (start + np.flatnonzero(mine[start:]) + 1).tolist()
        if checked is not None:
            return ((number, checked[number - 1]) for number in numbers)
        rows = source.rows("train", start, lambda number: bool(mine[number]))
        return checking.outcomes(zip(numbers, rows, strict=False))

    return {split: partial(cut_off, split) for split in SPLITS}


def cut_told(state: PreparationState) -> Mapping[str, int]:
    """`Cut.told` of what was cut; empty where nothing was, and of a cut by the ids alone."""
    return state.setting(_TOLD) or {}


def was_cut(state: PreparationState) -> bool:
    """Whether what `state` began cut the source's train, or found it cut."""
    return any(state.setting(name) is not None for name in (_SIDES, _BOUNDS))


def _noted(state: PreparationState) -> NDArray[np.uint8] | None:
    """The sides that the state holds."""
    text = state.setting(_SIDES)
    return (
        None if text is None else np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    )


def _cut(
    source: Source,
    seed: int,
    size: int,
    state: PreparationState,
    checking: Checking,
    progress: Progress,
    whole_figures: bool,
) -> tuple[Cut, Sequence[Outcome] | None]:
    """The cut of the source's train, and what became of its rows where that is remembered."""
    bounds = state.setting(_BOUNDS)
    if bounds is not None:  # an older version began it, and noted the bounds
        return Cut(HashCut(*bounds).sides(_hashes(seed, source.ids("train"))), {}), None
    groups, pairs, checked = FigureGroups(), tuple[tuple[int, int], ...](), None
    if size <= SMALL:
        alike = AlikePictures() if whole_figures else None
        good, checked = _checked(source, checking, groups, alike)
        pairs = tuple(alike.rows(_images_of(source, checking, checked))) if alike else ()
    else:
        good = np.ones(size, np.bool_)
        if whole_figures:
            progress.start("read the figures", size, "rows")
            _read_figures(source, groups, progress)
        progress.start("read the ids", size, "rows")
    hashes = _hashes(seed, _shown(source.ids("train"), progress if size > SMALL else Silent()))
    if not whole_figures:
        return Cut(HashCut.of(hashes[good]).sides(hashes), {}), checked
    of_rows = groups.of_rows(size, pairs)
    keys = group_keys(of_rows, hashes, source.ids("train"))
    return cut_whole_figures(of_rows, keys, hashes, good), checked


def _read_figures(source: Source, groups: FigureGroups, progress: Progress) -> None:
    """Add all rows of train: their pictures are read, and none is decoded."""
    for number, row in enumerate(source.rows("train")):
        read = row.read()
        groups.add(number, read.id, (image for image in read.images if image is not None))
        if (number + 1) % _SHOWN_EACH == 0:
            progress.advance(_SHOWN_EACH)


def _hashes(seed: int, ids: Iterable[str]) -> NDArray[np.uint32]:
    """Four bytes an id, for sets of millions."""
    return np.fromiter((stable_seed("split", seed, id) for id in ids), np.uint32)


def _shown(ids: Iterable[str], progress: Progress) -> Iterator[str]:
    for number, id in enumerate(ids, 1):
        if number % _SHOWN_EACH == 0:
            progress.advance(_SHOWN_EACH)
        yield id


def _checked(
    source: Source, checking: Checking, groups: FigureGroups, alike: AlikePictures | None
) -> tuple[NDArray[np.bool_], Sequence[Outcome] | None]:
    """Which rows are good, and what became of all of them where that is little to remember.

    Where it is not, `checking` remembers the pictures that it can, and decodes those no more.
    """
    good, kept, size = list[bool](), list[Outcome](), 0
    for number, (_, outcome) in enumerate(checking.outcomes(enumerate(source.rows("train")))):
        checked = outcome.checked
        good.append(checked is not None)
        groups.add(number, outcome.id, () if checked is None else checked.pixels)
        if checked is not None:
            size += sum(map(len, (*checked.problem.images, *checked.tiles)))
            if alike is not None:
                alike.add(number, checked)
        if size <= REMEMBERED_BYTES:
            kept.append(outcome)
        else:
            kept.clear()
    return np.array(good, np.bool_), kept if size <= REMEMBERED_BYTES else None


def _images_of(source: Source, checking: Checking, checked: Sequence[Outcome] | None) -> ImagesOf:
    """The images of good rows, as they were checked; read again where that is not remembered."""

    def images_of(rows: Collection[int]) -> Mapping[int, Sequence[bytes]]:
        if checked is not None:
            outcomes = ((row, checked[row]) for row in rows)
        else:
            again = source.rows("train", 0, rows.__contains__)
            outcomes = checking.outcomes(zip(sorted(rows), again, strict=True))
        found = ((row, outcome.checked) for row, outcome in outcomes)
        return {row: one.problem.images for row, one in found if one is not None}

    return images_of
