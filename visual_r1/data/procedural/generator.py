"""Problems by number: the i-th problem depends on (seed, split, i) alone, and none comes twice.

A split of a family is a fixed list of value tuples; which tuple belongs to which split is a hash
of the family and the tuple, so that no seed can put a test problem's values into training. A seed
only shuffles the list and picks how each tuple is drawn: i runs through families in turn, then
through the shuffled values, and, when all are used, through further drawings of the same values.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import permutations

from visual_r1.data.problem import IMAGE_MARKER, SPLITS, Problem, Split
from visual_r1.data.procedural.family import ALPHABETS, Family, Style
from visual_r1.data.procedural.lines import LINES
from visual_r1.data.procedural.polygons import POLYGONS
from visual_r1.data.procedural.raster import png
from visual_r1.errors import DataError
from visual_r1.hashing import stable_seed

_FAMILIES: tuple[Family, ...] = POLYGONS + LINES
FAMILIES: tuple[str, ...] = tuple(family.name for family in _FAMILIES)

# Of 100 value tuples of a family, on average.
_TRAIN_SHARE, _VALIDATION_SHARE = 70, 10

_JITTER = tuple(range(-3, 4))
_JITTERED_NUMBERS = 8
_LETTERINGS = tuple(order for alphabet in ALPHABETS for order in permutations(alphabet))
# Wording, mirroring and the first jitter change the problem in every family; one value tuple is
# therefore drawn this often before a problem could come twice.
_ROUNDS = 2 * 4 * len(_JITTER)


def generate(seed: int, split: Split, count: int, start: int = 0) -> Iterator[Problem]:
    """The first `count` problems of a split, those before number `start` left out.

    See `problem` for what each depends on.

    Raises `DataError` when `count` exceeds `capacity(split)`.
    """
    require_capacity(split, count)
    return (problem(seed, split, index) for index in range(start, count))


def require_capacity(split: Split, count: int) -> None:
    """Raise `DataError` when `count` exceeds `capacity(split)`."""
    if count > capacity(split):
        raise DataError(
            f"{count} problems asked of the procedural {split} split, which has "
            f"{capacity(split)} different ones; ask for fewer."
        )


def id_of(seed: int, split: Split, index: int) -> str:
    """The id of problem number `index`."""
    return f"procedural-{seed}-{split}-{index}"


def capacity(split: Split) -> int:
    """How many problems the split can give before one comes twice (some 95,000 to 640,000)."""
    return fresh_values(split) * _ROUNDS


def fresh_values(split: Split) -> int:
    """How many problems of the split come before a family draws values for the second time."""
    return min(value_count(family, split) for family in FAMILIES) * len(FAMILIES)


def value_count(family: str, split: Split) -> int:
    """How many tuples of numbers a family has in a split."""
    return len(_values_by_split(FAMILIES.index(family))[split])


def problem(seed: int, split: Split, index: int) -> Problem:
    """Problem number `index` of (seed, split); two indices of one pair never give the same one."""
    turn, which = divmod(index, len(_FAMILIES))
    family = _FAMILIES[which]
    order = _shuffled(seed, split, which)
    round_, place = divmod(turn, len(order))
    values = _values_by_split(which)[split][order[place]]
    style = _style(round_, random.Random(stable_seed("style", seed, split, family.name, *values)))
    figure = family.figure(values, style)
    sketch = figure.sketch.mirrored(left_right=style.left_right, top_bottom=style.top_bottom)
    return Problem(
        id=id_of(seed, split, index),
        images=(png(sketch),),
        problem=f"{IMAGE_MARKER}{figure.question}",
        answer=str(family.rule([Fraction(value) for value in figure.values.values()])),
        source="procedural",
        meta={
            "family": family.name,
            "facts": list(figure.facts),
            "solution": f"{', '.join(figure.facts)}. {figure.working}",
            "values": dict(figure.values),
        },
    )


def rule_of(family: str) -> Callable[[Sequence[Fraction]], Fraction] | None:
    """What the answer of a family is, from the values of `meta`, in their order; None where there
    is no such family."""
    return next((one.rule for one in _FAMILIES if one.name == family), None)


def split_of(family: str, key: tuple[int, ...]) -> Split:
    """The split that owns the values with this key, for every seed."""
    bucket = stable_seed("split", family, *key) % 100
    if bucket < _TRAIN_SHARE:
        return "train"
    return "validation" if bucket < _TRAIN_SHARE + _VALIDATION_SHARE else "test"


@cache
def _values_by_split(which: int) -> dict[Split, list[tuple[int, ...]]]:
    """All value tuples of a family, by the split that they belong to."""
    family = _FAMILIES[which]
    owner = cache(split_of)
    found: dict[Split, list[tuple[int, ...]]] = {split: [] for split in SPLITS}
    for values in family.values():
        found[owner(family.name, family.key(values))].append(values)
    return found


@cache
def _shuffled(seed: int, split: Split, which: int) -> tuple[int, ...]:
    """A permutation of the indices of a family's values in a split."""
    order = list(range(value_count(FAMILIES[which], split)))
    random.Random(stable_seed("order", seed, split, FAMILIES[which])).shuffle(order)
    return tuple(order)


def _style(round_: int, rng: random.Random) -> Style:
    """The drawing of a value tuple in a round; `rng` is seeded by the tuple, not by the round.

    The offset that `rng` gives first is the same in all rounds, so (wording, mirror, first jitter)
    differ between any two of `_ROUNDS` rounds; the rest may repeat.
    """
    number = (rng.randrange(_ROUNDS) + round_) % _ROUNDS
    number, wording = divmod(number, 2)
    first_jitter, mirror = divmod(number, 4)
    for _ in range(round_):
        rng.random()
    a, b, c, d = rng.choice(_LETTERINGS)
    return Style(
        letters=(a, b, c, d),
        left_right=bool(mirror & 1),
        top_bottom=bool(mirror & 2),
        jitter=(_JITTER[first_jitter], *rng.choices(_JITTER, k=_JITTERED_NUMBERS - 1)),
        wording=wording,
        hidden=rng.randrange(12),
    )
