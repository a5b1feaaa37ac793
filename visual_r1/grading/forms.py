"""What an answer can be: a quantity, a ratio, a figure, a group, a relation, a word, ..."""

from dataclasses import dataclass

from visual_r1.grading.expressions import Expression
from visual_r1.grading.units import Unit


class Contradiction(Exception):
    """The answer says two different things (`5 = 6`)."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """An expression with what stands around it; `decimals` where it is a plain decimal literal."""

    expression: Expression
    decimals: int | None = None
    unit: Unit | None = None
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day: seconds after midnight, or after noon as well where `half` does not say."""

    seconds: int
    half: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """`3:4` or `3 to 4 to 5`; `time` where it is written as a time of day might be: `2:30`."""

    terms: tuple[Expression, ...]
    time: Clock | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """Plain words, in lower case, articles left out; also `infinity` and `-infinity`."""

    text: str


@dataclass(frozen=True, slots=True)
class Named:
    """A figure by the letters of its points, as they were written; `mark` says which figure it is,
    and is empty where nothing does."""

    mark: str
    points: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its letters from that end which comes first."""
        return min("".join(self.points), "".join(self.points[::-1]))


# Groups whose items have no order; items joined by "or" may also be a value and its rounding.
LISTS = frozenset(("list", "or", "set"))
# What two figures can be to each other.
STATEMENTS = frozenset("∥⊥≅∼")
# Of these the first point of one belongs to the first of the other.
CORRESPONDENCES = frozenset("≅∼")


@dataclass(frozen=True, slots=True)
class Group:
    """`kind` is one of `LISTS` or `STATEMENTS`, `matrix`, `row`, or two brackets: `()` (a pair, or
    an open interval), `[)`, ..."""

    kind: str
    items: tuple["Reading", ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """`low < subject < high`; a bound may be absent; `x != 3` has both bounds equal."""

    subject: Expression
    low: Expression | None
    high: Expression | None
    low_closed: bool = False
    high_closed: bool = False


@dataclass(frozen=True, slots=True)
class Equation:
    """An equation that is not merely a label and a value."""

    left: Expression
    right: Expression


Form = Quantity | Clock | Ratio | Word | Named | Group | Relation | Equation


@dataclass(frozen=True, slots=True)
class Label:
    """What a value belongs to. `kind` is variable, points, function, ratio, tuple or noun."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A labelled chain of forms that all say the same (`x = 3√5 ≈ 6.71`)."""

    chain: tuple[Form, ...]
    labels: tuple[Label, ...] = ()
