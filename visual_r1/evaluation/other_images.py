"""Whose picture is shown in a problem's place: the control `other_image`.

The other problem has another answer and other pictures, as many of them. It is drawn by a stable
hash of both ids from the `NEAREST` of the same family whose pictures are nearest in size; where the
family has none, from those of all problems. All problems of the split are looked at, also where an
evaluation asks about the first of them alone: so the picture does not change with their number.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log

from visual_r1.data.problem import Problem
from visual_r1.errors import DataError
from visual_r1.grading import gold_text, is_equivalent
from visual_r1.hashing import content_digest, stable_seed
from visual_r1.prompts.images import prepare_image

NEAREST = 32


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is known of a problem's pictures: their area is the log of all their pixels."""

    place: int
    id: str
    family: str
    answer: str
    pictures: tuple[str, ...]
    area: float


def other_places(problems: Sequence[Problem], count: int) -> Sequence[int | None]:
    """Of each of the first `count` problems the place of the one whose pictures it is shown with;
    None where there is none. Raises `DataError` where no problem has one."""
    shown = [_look(place, one) for place, one in enumerate(problems)]
    by_size = sorted(shown, key=lambda one: (one.area, one.id))
    families: dict[str, list[_Shown]] = {}
    for one in by_size:
        families.setdefault(one.family, []).append(one)
    found = [_other(one, families[one.family], by_size) for one in shown[:count]]
    if not any(place is not None for place in found):
        raise DataError(
            "evaluation.controls asks for other_image, and no problem has another one with as many "
            "pictures and another answer: leave other_image out."
        )
    return found


def _look(place: int, problem: Problem) -> _Shown:
    # They are whole as in a prompt: sizes are read from the headers, and nothing is scaled down.
    sizes = [prepare_image(data, 2**62) for data in problem.images]
    pixels = sum(one.width * one.height for one in sizes)
    return _Shown(
        place=place,
        id=problem.id,
        family=problem.family,
        answer=gold_text(problem.answer).strip(),
        pictures=tuple(content_digest(data) for data in problem.images),
        area=log(pixels) if pixels else 0.0,
    )


def _other(one: _Shown, family: Sequence[_Shown], everyone: Sequence[_Shown]) -> int | None:
    for among in (family, everyone):
        near: list[_Shown] = []
        for other in _outward(one, among):
            if len(other.pictures) == len(one.pictures) and one.pictures and _differs(one, other):
                near.append(other)
            if len(near) == NEAREST:
                break
        # Answers in other words are the same answer, and few are looked at that closely.
        for other in sorted(near, key=lambda other: stable_seed("other_image", one.id, other.id)):
            if not is_equivalent(other.answer, one.answer, "rounded"):
                return other.place
    return None


def _outward(one: _Shown, by_size: Sequence[_Shown]) -> Iterator[_Shown]:
    """All but `one`, from those whose pictures are of its size outwards."""
    here = bisect_left(by_size, (one.area, one.id), key=lambda other: (other.area, other.id))
    below, above = here - 1, here + 1
    while below >= 0 or above < len(by_size):
        down = one.area - by_size[below].area if below >= 0 else float("inf")
        up = by_size[above].area - one.area if above < len(by_size) else float("inf")
        if down <= up:
            yield by_size[below]
            below -= 1
        else:
            yield by_size[above]
            above += 1


def _differs(one: _Shown, other: _Shown) -> bool:
    return other.answer != one.answer and not set(one.pictures) & set(other.pictures)
