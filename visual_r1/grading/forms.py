"""What an answer can be: a quantity, a ratio, a figure, a group, a relation, a word, ...

Behind a quantity stands its unit: what it measures, and its size. A unit that is left out on one
side is fine; two units that measure different things, or that give different sizes, are a conflict
(7.1 cm is 71 mm, and not 7.1 m).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from visual_r1.grading.expressions import PI, Expression, Number, quotient
from visual_r1.grading.spelling import Token


@dataclass(frozen=True, slots=True)
class Unit:
    """`measures` is sorted (dimension, power) pairs; `size` is in the base unit of each."""

    measures: tuple[tuple[str, int], ...]
    size: Number = Fraction(1)


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
class Ratio:
    """`3:4` or `3 to 4 to 5`."""

    terms: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """Plain words, in lower case, articles left out; also `infinity` and `-infinity`."""

    text: str


@dataclass(frozen=True, slots=True)
class Named:
    """A figure by the letters of its points; `mark` says which, and is empty where nothing does."""

    mark: str
    name: str


# Groups whose items have no order; items joined by "or" may also be a value and its rounding.
LISTS = frozenset(("list", "or", "set"))
# What two figures can be to each other.
STATEMENTS = frozenset("∥⊥≅∼")


@dataclass(frozen=True, slots=True)
class Group:
    """`kind` is one of `LISTS` or `STATEMENTS`, or two brackets: `()` (a pair, or an open
    interval), `[)`, ..."""

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


Form = Quantity | Ratio | Word | Named | Group | Relation | Equation


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


# --- units

DEGREES = Unit((("angle", 1),))
_CURRENCIES = {
    "dollar": Unit((("dollar", 1),)),
    "euro": Unit((("euro", 1),)),
    "sterling": Unit((("sterling", 1),)),
}
# 5' and 5"; 25 °C is no multiple of 25 °F.
_MARKS = {
    "'": Unit((("length", 1),), Fraction(3048, 10000)),
    '"': Unit((("length", 1),), Fraction(254, 10000)),
}
_TEMPERATURES = {name: Unit(((f"temperature {name}", 1),)) for name in "CF"}

_METRE = {"mm": "1/1000", "cm": "1/100", "dm": "1/10", "m": "1", "km": "1000"}
_LENGTH_WORDS = {
    "millimeter": "1/1000", "millimetre": "1/1000", "centimeter": "1/100", "centimetre": "1/100",
    "decimeter": "1/10", "decimetre": "1/10", "meter": "1", "metre": "1", "kilometer": "1000",
    "kilometre": "1000", "inch": "254/10000", "inche": "254/10000", "foot": "3048/10000",
    "feet": "3048/10000", "yard": "9144/10000", "mile": "1609344/1000",
}  # fmt: skip
_IMPERIAL = {"in": "254/10000", "ft": "3048/10000", "yd": "9144/10000", "mi": "1609344/1000"}
_TIME = {
    "s": "1", "sec": "1", "second": "1", "min": "60", "minute": "60", "h": "3600", "hr": "3600",
    "hour": "3600", "day": "86400",
}  # fmt: skip
_MASS = {
    "mg": "1/1000", "g": "1", "gram": "1", "kg": "1000", "kilogram": "1000",
    "lb": "45359237/100000", "pound": "45359237/100000", "oz": "28349523125/1000000000",
    "ounce": "28349523125/1000000000",
}  # fmt: skip
_VOLUME = {"ml": "1/1000000", "L": "1/1000", "millilitre": "1/1000000",
           "milliliter": "1/1000000", "liter": "1/1000", "litre": "1/1000"}  # fmt: skip
_AREA = {"hectare": "10000", "acre": "40468564224/10000000"}
_SPEED = {"mph": "1609344/3600000", "kph": "1000/3600", "kmh": "1000/3600"}
_COUNTED = (
    "unit", "people", "person", "student", "child", "children", "side", "vertex", "vertices",
    "edge", "face", "diagonal", "triangle", "square", "circle", "rectangle", "point", "object",
    "item", "piece", "apple", "ball", "book", "year", "week", "month", "time", "way", "tile",
    "cube", "block", "car", "dot", "cell",
)  # fmt: skip
_MONEY = {"dollar": "1", "cent": "1/100", "usd": "1"}

_UNITS: dict[str, Unit] = {
    **{name: Unit((("length", 1),), Fraction(size))
       for name, size in {**_METRE, **_LENGTH_WORDS, **_IMPERIAL}.items()},
    **{name: Unit((("time", 1),), Fraction(size)) for name, size in _TIME.items()},
    **{name: Unit((("mass", 1),), Fraction(size)) for name, size in _MASS.items()},
    **{name: Unit((("length", 3),), Fraction(size)) for name, size in _VOLUME.items()},
    **{name: Unit((("dollar", 1),), Fraction(size)) for name, size in _MONEY.items()},
    **{name: Unit((("length", 2),), Fraction(size)) for name, size in _AREA.items()},
    **dict.fromkeys(("degree", "deg"), DEGREES),
    **dict.fromkeys(("radian", "rad"), Unit((("angle", 1),), quotient(Fraction(180), PI))),
    **{name: Unit((("length", 1), ("time", -1)), Fraction(size)) for name, size in _SPEED.items()},
    # "12 units" says nothing about which.
    **dict.fromkeys(_COUNTED, Unit(())),
}  # fmt: skip

_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}


def split_unit(tokens: Sequence[Token]) -> tuple[Sequence[Token], Unit | None]:
    """The tokens before the trailing unit, and the unit; None where there is none.

    The longest tail of tokens that reads as a unit is taken; something must be left before it.
    """
    if tokens and tokens[0].kind == "command" and tokens[0].text in _CURRENCIES:
        return tokens[1:], _CURRENCIES[tokens[0].text]
    if len(tokens) > 1 and (mark := _MARKS.get(tokens[-1].text)) and tokens[-2].kind == "number":
        return tokens[:-1], mark
    if len(tokens) > 2 and tokens[-2].text == "°" and tokens[-1].text in _TEMPERATURES:
        return tokens[:-2], _TEMPERATURES[tokens[-1].text]
    for start in range(max(1, len(tokens) - 12), len(tokens)):
        if tokens[start].kind == "word" or tokens[start].text in ("(", "{", "["):
            unit = read_unit(tokens[start:])
            if unit is not None:
                return tokens[:start], unit
    return tokens, None


def read_unit(tokens: Sequence[Token]) -> Unit | None:
    """The unit that all of `tokens` spell (`sq. ft`, `cm^{2}`, `(units)`, `km/h`), or None."""
    texts = [token.text for token in tokens if token.text not in ("{", "}", ".")]
    if len(texts) > 2 and (texts[0], texts[-1]) in (("(", ")"), ("[", "]")):
        texts = texts[1:-1]
    for divider in ("/", "per"):
        if divider in texts:
            place = texts.index(divider)
            top, low = _simple(texts[:place]), _simple(texts[place + 1 :])
            if top is None or low is None:
                return None
            powers = dict(top.measures)
            for name, power in low.measures:
                powers[name] = powers.get(name, 0) - power
            return Unit(tuple(sorted(powers.items())), quotient(top.size, low.size))
    return _simple(texts)


def in_conflict(left: Unit | None, right: Unit | None) -> bool:
    """Whether both are given and measure different things."""
    if left is None or right is None or not left.measures or not right.measures:
        return False
    return left.measures != right.measures


def _simple(texts: Sequence[str]) -> Unit | None:
    """`[square | cubic] name [^ digit | squared | cubed]`."""
    rest, power = list(texts), 1
    if rest and rest[0].lower() in ("square", "sq", "cubic", "cu"):
        power = _POWERS[rest.pop(0).lower()]
    if len(rest) >= 3 and rest[-2] == "^" and rest[-1] in ("2", "3"):
        power *= int(rest[-1])
        rest = rest[:-2]
    elif len(rest) == 2 and rest[1].lower() in ("squared", "cubed"):
        power *= _POWERS[rest[1].lower()]
        rest = rest[:1]
    elif len(rest) == 2 and rest[1] in ("2", "3") and len(rest[0]) == 2:  # cm2
        power *= int(rest.pop())
    if len(rest) != 1 or not rest[0].isalpha():
        return None
    unit = _named(rest[0])
    if unit is None or power == 1:
        return unit
    size = unit.size**power if isinstance(unit.size, Fraction) else unit.size
    return Unit(tuple((name, p * power) for name, p in unit.measures), size)


def _named(name: str) -> Unit | None:
    if len(name) == 1:  # M is not metre
        return _UNITS.get(name)
    name = name.lower()
    return _UNITS.get(name) or (_UNITS.get(name[:-1]) if name.endswith("s") else None)
