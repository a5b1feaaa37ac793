"""What a family of problems is: its values, and how values and a style become a problem."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from visual_r1.data.procedural.sketch import Point, Sketch

ALPHABETS = ("ABCD", "EFGH", "KLMN")


@dataclass(frozen=True, slots=True)
class Style:
    """How one problem is drawn and worded; it never changes the answer.

    `letters` are four distinct names in the order in which a family gives them to its points,
    `jitter` shifts points by -3 to 3 px, `wording` (0 or 1) picks a phrasing, `hidden` (0 to 11)
    which of the figure's angles is asked for.
    """

    letters: tuple[str, str, str, str]
    left_right: bool
    top_bottom: bool
    jitter: tuple[int, ...]
    wording: int
    hidden: int

    def moved(self, index: int, x: int, y: int) -> Point:
        """The family's point number `index`, shifted by its jitter."""
        return (x + self.jitter[2 * index], y + self.jitter[2 * index + 1])


@dataclass(frozen=True, slots=True)
class Figure:
    """One problem before rendering: the sketch (not mirrored yet), the question and its working.

    `facts` are sentences such as "angle A reads 74"; `working` is the calculation alone, whose
    last number is the answer; `values` are the numbers drawn, by what they belong to.
    """

    sketch: Sketch
    question: str
    facts: tuple[str, ...]
    working: str
    values: dict[str, int]


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of problem.

    `values` lists every tuple of numbers it can be drawn with, always in one order; `key` maps a
    tuple to what must not be shared by two splits (mirrored tuples give one key where the order
    does not matter); `figure` makes the problem of a tuple and a style. `rule` is the answer that
    follows from the figure's values, in the order of `Figure.values`: also from values that were
    misread, which may leave no whole number.
    """

    name: str
    values: Callable[[], Iterator[tuple[int, ...]]]
    key: Callable[[tuple[int, ...]], tuple[int, ...]]
    figure: Callable[[tuple[int, ...], Style], Figure]
    rule: Callable[[Sequence[Fraction]], Fraction]


def unordered(values: tuple[int, ...]) -> tuple[int, ...]:
    """The key of a family in which the order of the numbers does not matter."""
    return tuple(sorted(values))


def ordered(values: tuple[int, ...]) -> tuple[int, ...]:
    """The key of a family in which it does."""
    return values


def left_of(whole: int) -> Callable[[Sequence[Fraction]], Fraction]:
    """The rule of values that fill `whole` together with the answer."""
    return lambda values: whole - sum_of(values)


def sum_of(values: Sequence[Fraction]) -> Fraction:
    """The rule of values that make the answer up."""
    return sum(values, Fraction())


def sums(numbers: Sequence[int]) -> str:
    """The working of a sum, one addition a sentence: "74+44=118. 118+20=138."."""
    total, steps = numbers[0], list[str]()
    for number in numbers[1:]:
        steps.append(f"{total}+{number}={total + number}.")
        total += number
    return " ".join(steps)
