"""What an evaluation is looked at by: family, kind of answer, size of the picture, difficulty.

How hard a problem is the dataset says, where its rows have a `difficulty` or a `level`. Where they
have none it is the share of samples that the run's baseline had right, or this evaluation's own
where it is the baseline: then the samples of that same evaluation are no fair measure by
difficulty, the problems were sorted by them, and the greedy answers are.
"""

import io
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from PIL import Image

from visual_r1.data.card import answer_kind
from visual_r1.errors import DataError
from visual_r1.evaluation.predictions import REPORT_NAME, iterate_predictions

_READ = ("id", "family", "answer", "images", "difficulty", "k", "sampled_correct")
BY = ("family", "kind", "size", "difficulty")
STATED, OF_BASELINE, ITS_OWN = "the dataset", "pass rate of the baseline", "its own pass rate"

# Sides of squares, in pixels: a picture is as large as the square of its area.
_SIDES = (128, 256, 512, 1024, 2048)
_SIZES = (
    f"under {_SIDES[0]}² px",
    *(f"{low}² to {high}² px" for low, high in pairwise(_SIDES)),
    f"{_SIDES[-1]}² px and more",
)
# Shares of samples, with the bounds as those of the sizes: a third itself is in the second of them.
_RATES = ("never solved", "under 1/3", "1/3 to 2/3", "2/3 and more", "always solved")
_BOUNDS = (Fraction(1, 3), Fraction(2, 3))


@dataclass(frozen=True, slots=True)
class Facts:
    """The groups that a problem belongs to, by `BY`; a group of no name is none."""

    family: str = ""
    kind: str = ""
    size: str = ""
    difficulty: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """The facts of problems by id, and who says how hard they are; empty where nobody does."""

    facts: Mapping[str, Facts] = field(default_factory=dict[str, Facts])
    difficulty_from: str = ""

    def groups(self, by: str) -> dict[str, str]:
        """The name of the group of each id; those that belong to none are left out."""
        named = {id: str(getattr(facts, by)) for id, facts in self.facts.items()}
        return {id: name for id, name in named.items() if name}


NOTHING_KNOWN = Known()


def known_in(folder: Path) -> Known:
    """The facts of the problems in the evaluation in `folder`, by its predictions.

    Raises `DataError` as `read_predictions`.
    """
    stated: dict[str, Facts] = {}
    rates: dict[str, Fraction] = {}
    for row in iterate_predictions(folder, _READ):
        stated[row["id"]] = Facts(
            family=row["family"],
            kind=answer_kind(row["answer"]),
            size=_size(image["bytes"] for image in row["images"] or ()),
            difficulty=row.get("difficulty") or "",
        )
        if row["k"]:
            rates[row["id"]] = Fraction(row["sampled_correct"], row["k"])
    if any(one.difficulty for one in stated.values()):
        return Known(stated, STATED)
    of_baseline = _rates_of_baseline(folder)
    source = OF_BASELINE if of_baseline else ITS_OWN if rates else ""
    rates = of_baseline or rates
    found = {
        id: replace(one, difficulty=_rate(rates[id]) if id in rates else "")
        for id, one in stated.items()
    }
    return Known(found, source)


def in_order(by: str, groups: Iterable[str]) -> list[str]:
    """The names of groups in the order in which they are read."""
    order = {"size": _SIZES, "difficulty": _RATES}.get(by, ())
    place = {name: at for at, name in enumerate(order)}
    return sorted(groups, key=lambda name: (place.get(name, len(place)), name))


def _size(pictures: Iterable[bytes]) -> str:
    """By the area of all pictures of a problem together."""
    area = 0
    for picture in pictures:
        try:
            with Image.open(io.BytesIO(picture)) as opened:
                area += opened.width * opened.height
        except (OSError, ValueError):  # who asks about it says what is wrong
            return ""
    return _SIZES[bisect_right([side * side for side in _SIDES], area)] if area else ""


def _rate(share: Fraction) -> str:
    if share in (0, 1):
        return _RATES[-1 if share else 0]
    return _RATES[1 + bisect_right(_BOUNDS, share)]


def _rates_of_baseline(folder: Path) -> dict[str, Fraction]:
    """The pass rates of the baseline beside the evaluation in `folder`; none where it is that."""
    baseline = folder.parent / "baseline"
    if baseline == folder or not (baseline / REPORT_NAME).exists():
        return {}
    try:
        rows = list(iterate_predictions(baseline, ["id", "k", "sampled_correct"]))
    except DataError:  # who reads it for its own sake says so
        return {}
    return {row["id"]: Fraction(row["sampled_correct"], row["k"]) for row in rows if row["k"]}
