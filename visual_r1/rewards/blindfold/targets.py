"""What a scan must not say, and whether the grader reads a text as saying it."""

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from visual_r1.grading import is_equivalent
from visual_r1.grading.equivalence import Rounding, same_answer
from visual_r1.grading.expressions import Number, Undefined, Variable, evaluate, variables
from visual_r1.grading.forms import Contradiction, Quantity, Reading
from visual_r1.grading.reading import read
from visual_r1.grading.spelling import Unreadable

Span = tuple[int, int]  # from, up to and without

MASK = "[masked]"

MAX_CHECKS = 1200
# Denominators of values that are written with few digits.
_FEW_DIGITS = frozenset((1, 2, 4, 5, 10, 20, 100))


class TooMuch(Exception):
    """The text holds more calculations than can be looked through: `MAX_CHECKS`."""


@dataclass(frozen=True, slots=True)
class Target:
    """An answer to look for.

    `value` is its number where it has one and holds no variables; `names` are its variables;
    `digits` how its digits would be spelled out, "" where it has many.
    """

    text: str
    readings: tuple[Reading, ...]
    value: Number | None
    names: frozenset[str]
    digits: str

    @property
    def is_quantity(self) -> bool:
        """Whether it is a number or an expression, and no word, pair or relation."""
        return any(isinstance(form, Quantity) for one in self.readings for form in one.chain)

    @property
    def is_a_word(self) -> bool:
        """Whether it is letters alone, which might also be read as a product of variables."""
        return self.text.isalpha() and len(self.text) > 1

    @property
    def is_a_name(self) -> bool:
        """Whether it is one letter: a point, an unknown, or a choice, and nothing calculated."""
        quantities = [f for one in self.readings for f in one.chain if isinstance(f, Quantity)]
        return bool(quantities) and isinstance(quantities[0].expression, Variable)

    @property
    def is_percent(self) -> bool:
        """Whether it is so many hundredths."""
        return any(f.percent for r in self.readings for f in r.chain if isinstance(f, Quantity))


def target(text: str) -> Target:
    """What to look for, for the answer `text`."""
    try:
        readings = read(text)
    except Unreadable:
        readings = ()
    quantities = [f for one in readings for f in one.chain if isinstance(f, Quantity)]
    names = frozenset[str]().union(*(variables(one.expression) for one in quantities[:1]))
    value = _value(quantities[0]) if quantities and not names else None
    digits = ""
    # Only a value with few digits can be spelled digit by digit: `62`, `12.5`.
    if isinstance(value, Fraction) and abs(value) <= 10**9 and value.denominator in _FEW_DIGITS:
        exact = Decimal(value.numerator) / Decimal(value.denominator)
        digits = format(exact, "f").lstrip("-")
    return Target(text, readings, value, names, digits)


def is_value(text: str) -> bool:
    """Whether the answer `text` is a number or an expression that grades as itself.

    A letter alone is none, for it stays what it is whatever the figure's numbers are: the name of a
    point, or a choice.
    """
    one = target(text)
    named = one.is_a_word or one.is_a_name
    return one.is_quantity and not named and is_equivalent(text, text)


class Checks:
    """Whether texts say a target, by the grader, which is asked `MAX_CHECKS` times at most.

    `known` are the numbers of the figure, as far as they are known.
    """

    def __init__(self, rounding: Rounding, known: Collection[Fraction] = ()) -> None:
        self.rounding: Rounding = rounding
        self.known = frozenset(known)
        self.made = 0

    def count(self) -> None:
        """Count one more thing to be worked out. Raises `TooMuch` past the limit."""
        self.made += 1
        if self.made > MAX_CHECKS:
            raise TooMuch

    def says(self, text: str, one: Target) -> bool:
        """Whether the grader reads `text` as the target. Raises `TooMuch` past the limit."""
        self.count()
        return _says(text, one, self.rounding)


@lru_cache(maxsize=8192)
def _says(text: str, one: Target, rounding: Rounding) -> bool:
    try:
        mine = read(text)
    except Unreadable:
        return False
    return any(same(left, right, rounding) for left in mine for right in one.readings)


def same(mine: Reading, gold: Reading, rounding: Rounding) -> bool:
    """Whether the grader finds them the same; false where it cannot tell."""
    try:
        return same_answer(mine, gold, rounding)
    except (Contradiction, Unreadable):
        return False


def numeric(text: str) -> Number | None:
    """The value of a calculation without variables; None for anything else."""
    try:
        readings = read(text)
    except Unreadable:
        return None
    forms = [form for one in readings for form in one.chain if not one.labels]
    return _value(forms[0]) if forms and isinstance(forms[0], Quantity) else None


def _value(quantity: Quantity) -> Number | None:
    if variables(quantity.expression):
        return None
    try:
        return evaluate(quantity.expression)
    except (Undefined, Unreadable):
        return None
