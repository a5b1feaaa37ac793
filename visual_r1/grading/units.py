"""Units: what stands behind a number, what it measures, and its size.

Names, prefixes and sizes are pint's registry, in exact fractions. What is decided here is which of
its names an answer may mean: `12 V` are volts, and `12ab` is a product of variables, though pint
knows the attobarn. The grammar:

    unit    = factor {["*" | "·"] factor} [("/" | "per") unit]
    factor  = ["square" | "cubic"] name ["^" whole number | "squared" | "cubed"]
    name    = a unit of pint's | what is counted ("units", "red cubes")

A unit that is left out on one side is fine; two units that measure different things, or that give
different sizes, are a conflict (7.1 cm is 71 mm, and not 7.1 m).
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, cast

from visual_r1.grading.expressions import PI, Number, quotient
from visual_r1.grading.numerals import is_number_word
from visual_r1.grading.spelling import Token

MAX_NAME = 30
MAX_POWER = 6


@dataclass(frozen=True, slots=True)
class Unit:
    """`measures` is sorted (dimension, power) pairs; `size` is in the base unit of each.

    `kinds` says which of what is counted: `red` cubes.
    """

    measures: tuple[tuple[str, int], ...]
    size: Number = Fraction(1)
    kinds: frozenset[str] = frozenset()


DEGREES = Unit((("angle", 1),))
RADIANS = Unit((("angle", 1),), quotient(Fraction(180), PI))
# "12 units" says nothing about which.
ANY = Unit(())

# Coins and notes, which pint has none of, and what it spells otherwise.
_DEFINITIONS = (
    "us_dollar = [us_money]", "us_cent = us_dollar / 100",
    "euro = [euro_money]", "sterling = [uk_money]", "penny = sterling / 100",
    "yuan = [cn_money]", "jiao = yuan / 10", "yen = [jp_money]", "rupee = [in_money]",
    "won = [kr_money]", "ruble = [ru_money]", "jin = kilogram / 2",
)  # fmt: skip
_SPELLED = {
    "dollar": "us_dollar", "usd": "us_dollar", "cent": "us_cent", "pence": "penny",
    "buck": "us_dollar", "eur": "euro", "gbp": "sterling", "rmb": "yuan",
    "cny": "yuan", "inr": "rupee", "omega": "ohm",
    "kmh": "kph", "kmph": "kph", "ohms": "ohm", "sqft": "square_foot", "inche": "inch",
    "min": "minute", "lbs": "pound", "au": "astronomical_unit", "cc": "cubic_centimeter",
}  # fmt: skip
_SIGNS = frozenset(("dollar", "euro", "sterling", "yen", "rupee", "won", "ruble"))
_IN_FRONT = {"USD": "us_dollar", "US": "us_dollar", "EUR": "euro", "GBP": "sterling",
             "RMB": "yuan", "CNY": "yuan", "INR": "rupee", "Rs": "rupee"}  # fmt: skip
_MARKS = {"'": "foot", '"': "inch"}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}

# A short name is a symbol: of these units, behind these prefixes. A single letter more often is a
# variable or a point.
_METRIC = frozenset(
    ("meter", "gram", "liter", "second", "newton", "pascal", "joule", "watt", "watt_hour", "volt",
     "ampere", "hertz", "ohm", "mole", "coulomb", "farad", "tesla", "henry", "calorie",
     "electron_volt", "bar", "byte", "kelvin")
)  # fmt: skip
_SYMBOLS = _METRIC | frozenset(
    ("minute", "hour", "day", "year", "inch", "foot", "yard", "mile", "pound", "ounce", "gallon",
     "quart", "pint", "cup", "mile_per_hour", "kilometer_per_hour", "degree", "radian", "turn",
     "acre", "are", "hectare", "week", "month", "knot", "ton", "metric_ton", "astronomical_unit",
     "cubic_centimeter", "square_foot", "us_dollar", "us_cent", "euro", "sterling", "penny",
     "yuan", "jiao", "jin", "rupee", "won", "yen", "ruble")
)  # fmt: skip
_PREFIXES = frozenset(("", "kilo", "milli", "mega", "giga", "micro", "nano"))
_PREFIXES_OF_LENGTHS = frozenset(("centi", "deci", "hecto"))
_LETTERS = frozenset("mgshLNVW")
# Of letters that name points and choices as well: only apart from their number, `5 A`.
_LETTERS_APART = frozenset("ACFTHJK")

# What is counted may be called as one likes: a plural behind the number. These are none, though
# they end like one; or their own meaning in pint is not the everyday one.
_NO_NOUN = frozenset(
    ("is", "was", "has", "does", "its", "this", "thus", "us", "as", "his", "hers", "ours",
     "yours", "theirs", "plus", "minus", "times", "less", "unless", "yes", "always", "perhaps",
     "sometimes", "besides", "towards", "across", "versus", "guess", "equals", "means", "makes",
     "gives", "remains", "exceeds", "others", "tens", "hundreds", "thousands", "millions",
     "billions", "dozens", "scores", "grosses", "twos", "threes", "fours", "fives", "sixes",
     "sevens", "eights", "nines", "halves", "thirds", "fourths", "quarters", "fifths", "sixths",
     "sevenths", "eighths", "ninths", "tenths", "hundredths", "thousandths", "percents", "squares",
     "roots", "powers", "isosceles", "afterwards", "backwards", "forwards", "upwards", "downwards",
     "needs", "seems", "looks", "fails", "works", "differs", "ones", "infinities")
)  # fmt: skip
_NO_ADJECTIVE = frozenset(
    ("more", "less", "fewer", "other", "and", "or", "not", "but", "is", "are", "to", "of", "over",
     "under", "than", "dozen", "hundred", "thousand", "million", "billion", "half", "third",
     "quarter", "no", "non", "if", "then", "else", "maybe", "minus", "plus", "times", "without",
     "too", "so", "in", "out", "out of", "by", "per", "sq", "square", "cubic", "cu", "for")
)  # fmt: skip
_IRREGULAR = frozenset(
    ("people", "children", "men", "women", "vertices", "matrices", "mice", "geese", "sheep", "fish",
     "cattle", "dice", "axes", "radii", "squares")
)  # fmt: skip
# One of a kind, or more: nothing that another word for the same could contradict.
_NEUTRAL = frozenset(
    ("unit", "piece", "item", "object", "thing", "time", "way", "person", "people", "total",
     "element", "part", "point", "circle", "dot", "count", "section", "pixel", "number")
)  # fmt: skip
_SAY_NOTHING = frozenset(
    ("different", "distinct", "possible", "whole", "identical", "equal", "such", "these")
)
_SINGULAR = frozenset(
    ("student", "child", "side", "vertex", "edge", "face", "diagonal", "triangle", "rectangle",
     "square", "apple", "ball", "book", "tile", "cube", "block", "car", "cell")
)  # fmt: skip
_NOT_PINTS = frozenset(("fifth", "quarter", "alpha", "exact", "grade", "hand", "link", "chain"))


def split_unit(tokens: Sequence[Token]) -> tuple[Sequence[Token], Unit | None]:
    """The tokens before the trailing unit, and the unit; None where there is none.

    The longest tail of tokens that reads as a unit is taken; something must be left before it.
    """
    if len(tokens) > 1 and (sign := _sign(tokens[0])) is not None:
        return tokens[1:], sign
    if len(tokens) > 1 and tokens[0].text in _IN_FRONT:  # USD 5, Rs. 5, US$5
        has_sign = tokens[1].text in (".", "dollar")
        rest = tokens[2:] if has_sign else tokens[1:]
        if rest and rest[0].kind == "number" and (has_sign or tokens[0].text != "US"):
            return rest, _of_pint(_IN_FRONT[tokens[0].text])
    if len(tokens) > 2 and tokens[0].text == "-" and (sign := _sign(tokens[1])) is not None:
        return (tokens[0], *tokens[2:]), sign  # -$5
    if len(tokens) > 1 and (sign := _sign(tokens[-1])) is not None:
        return tokens[:-1], sign
    if len(tokens) > 1 and (mark := _MARKS.get(tokens[-1].text)):
        is_fraction = tokens[-2].text == "}" and tokens[-1].text == '"'  # and f' is a derivative
        if tokens[-2].kind == "number" or is_fraction:
            return tokens[:-1], _of_pint(mark)
    if len(tokens) > 2 and tokens[-2].text == "°" and tokens[-1].text in ("C", "F"):
        # 25 °C is no multiple of 25 °F.
        return tokens[:-2], Unit(((f"temperature {tokens[-1].text}", 1),))
    for start in range(max(1, len(tokens) - 12), len(tokens)):
        first = tokens[start]
        if first.kind in ("word", "command") or first.text in ("(", "{", "["):
            unit = read_unit(tokens[start:], tokens[start - 1])
            if unit is not None and not (start == 1 and _begins_with_article(tokens)):
                return tokens[:start], unit
    return tokens, None


def _begins_with_article(tokens: Sequence[Token]) -> bool:
    """`a mouse`, `A curve with cusps`: not so many mice. `a units` are as many as a says."""
    words = [token.text for token in tokens[1:]]
    is_one = len(words) > 1 or not words[0].endswith("s")
    return tokens[0].text in ("A", "a") and is_one and _counted(words) is not None


def _sign(token: Token) -> Unit | None:
    known = token.kind == "command" and token.text in _SIGNS
    return _of_pint(token.text) if known else None


def read_unit(tokens: Sequence[Token], before: Token | None = None) -> Unit | None:
    """The unit that all of `tokens` spell (`sq. ft`, `cm^{2}`, `(units)`, `km/h`), or None.

    Args:
        tokens: what may be a unit.
        before: what stands in front of it, a number mostly; None for a unit by itself.
    """
    kept = [token for token in tokens if token.text not in ("{", "}", ".")]
    if len(kept) > 2 and (kept[0].text, kept[-1].text) in (("(", ")"), ("[", "]")):
        kept = kept[1:-1]
    if not kept or len(kept) > 12:
        return None
    apart = before is None or kept[0].spaced or kept[0] is not tokens[0]
    if before is not None and before.kind in ("word", "command") and not apart:
        return None
    unit = _read_texts(tuple(token.text for token in kept), apart)
    if before is None and unit is not None and _is_count(unit):
        # Without a number in front only words that are known to count do so, and measure nothing.
        noun = kept[-1].text.lower()
        return ANY if {noun, noun.removesuffix("s")} & (_SINGULAR | _IRREGULAR) else None
    return unit


def _is_count(unit: Unit) -> bool:
    return any(name.startswith("counted ") for name, _ in unit.measures)


@lru_cache(maxsize=4096)
def _read_texts(texts: tuple[str, ...], apart: bool) -> Unit | None:
    places = [place for place, text in enumerate(texts) if text in ("/", "per", "every")]
    if not places:
        return _product(texts, apart)
    top, low = _read_texts(texts[: places[-1]], apart), _product(texts[places[-1] + 1 :], True)
    return None if top is None or low is None else _times(top, low, -1)


def in_conflict(left: Unit | None, right: Unit | None) -> bool:
    """Whether both are given and measure different things, or other ones of a kind."""
    if left is None or right is None or not left.measures or not right.measures:
        return False
    of_other_kinds = bool(left.kinds and right.kinds) and left.kinds.isdisjoint(right.kinds)
    return left.measures != right.measures or of_other_kinds


def _times(one: Unit, other: Unit, sign: int = 1) -> Unit:
    powers = dict(one.measures)
    for name, power in other.measures:
        powers[name] = powers.get(name, 0) + sign * power
    size = other.size if sign > 0 else quotient(Fraction(1), other.size)
    whole = (
        one.size * size
        if isinstance(one.size, Fraction) and isinstance(size, Fraction)
        else (one.size if one.size != 1 else size)
    )
    return Unit(tuple(sorted((name, power) for name, power in powers.items() if power)), whole)


def _product(texts: Sequence[str], apart: bool) -> Unit | None:
    """`N m`, `kg·m^2`, `cm squared`; a unit times itself is written as a power."""
    if not texts:
        return None
    alone = _factor(texts, apart) or _counted(texts)
    if alone is not None or len(texts) > 8:
        return alone
    for cut in range(1, len(texts)):
        if texts[cut - 1].isdigit() and texts[cut - 2] not in ("^", "-"):
            continue  # 6 ft 3 in
        first = _factor(texts[:cut], apart)
        if first is None or not first.measures:
            continue
        rest = texts[cut + 1 :] if texts[cut] in ("*", "-") else texts[cut:]
        other = _product(rest, True)
        if other is not None and other.measures and other.measures != first.measures:
            return _times(first, other)
    return None


def _factor(texts: Sequence[str], apart: bool) -> Unit | None:
    """`[square | cubic] name [^ digit | squared | cubed]`."""
    rest, power = list(texts), 1
    if rest and rest[0].lower() in ("square", "sq", "cubic", "cu"):
        power = _POWERS[rest.pop(0).lower()]
    if len(rest) >= 3 and rest[-2] == "^" and rest[-1].isdigit():
        power *= int(rest[-1][:3])
        rest = rest[:-2]
        if rest[-1] == "-":
            return None
    elif len(rest) >= 4 and rest[-3:-1] == ["^", "-"] and rest[-1].isdigit():
        power *= -int(rest[-1][:3])
        rest = rest[:-3]
    elif len(rest) >= 2 and rest[-1].lower() in ("squared", "cubed"):
        power *= _POWERS[rest[-1].lower()]
        rest = rest[:-1]
    elif len(rest) == 2 and rest[1] in ("2", "3") and len(rest[0]) == 2:  # cm2
        power *= int(rest.pop())
    if len(rest) == 2 and "mu" in rest[:1]:  # μ m
        rest = ["u" + rest[1]]
    elif len(rest) == 2 and rest[1] == "Omega":  # k Ω
        rest = [rest[0] + "ohm"]
    if not 0 < len(rest) < 4 or abs(power) > MAX_POWER:
        return None
    name = "_".join(rest)  # light years
    is_any = name.removesuffix("s") == "unit" or (name == "u" and apart and power > 1)
    unit = ANY if is_any else _named(name, apart)
    if unit is None or power == 1:
        return unit
    size = unit.size**power if isinstance(unit.size, Fraction) else unit.size
    return Unit(tuple((name, p * power) for name, p in unit.measures), size)


def _counted(texts: Sequence[str]) -> Unit | None:
    """`people`, `red cubes`: what is counted; another thing counted is a conflict."""
    if not 0 < len(texts) <= 3 or not all(text.isalpha() and len(text) > 1 for text in texts):
        return None
    *adjectives, noun = (text.lower() for text in texts)
    singular = noun[:-1] if noun.endswith("s") else noun
    known = {noun, singular} & (_NEUTRAL | _SINGULAR | _IRREGULAR)
    plural = len(noun) > 3 and noun.endswith("s") and not noun.endswith(("ss", "us", "is"))
    if (not known and (not plural or noun in _NO_NOUN)) or not texts[-1][1:].islower():
        return None
    if not known and _of_pint(noun) is not None:
        return None
    for word in adjectives:
        denied = word in _NO_ADJECTIVE or word in _NO_NOUN or word.endswith("ly")
        if denied or is_number_word(word) or word == "pi" or _of_pint(word) is not None:
            return None
    neutral = singular in _NEUTRAL or noun in _NEUTRAL
    kinds = frozenset(adjectives) - _NEUTRAL - _SAY_NOTHING
    return ANY if neutral else Unit(((f"counted {singular}", 1),), kinds=kinds)


def _named(name: str, apart: bool) -> Unit | None:
    if len(name) > MAX_NAME or not name.replace("_", "").isalpha():
        return None
    if len(name) == 1:  # M is not metre
        known = name in _LETTERS or (apart and name in _LETTERS_APART)
        return _of_pint(name) if known else None
    if name.endswith("Nm"):  # `kNm`; in small letters it would be nanometres
        newton, meter = _of_pint(name[:-1]), _of_pint("m")
        return None if newton is None or meter is None else _times(newton, meter)
    return _of_pint(name) or _of_pint(name.lower())


@lru_cache(maxsize=4096)
def _of_pint(name: str) -> Unit | None:
    """The unit of pint's that `name` is, where it may stand for one in an answer."""
    if name.lower() in _NOT_PINTS or name in _NEUTRAL or name[:-1] in _NEUTRAL | _NOT_PINTS:
        return None
    for spelled in (name, name[:-1] if len(name) > 2 and name.endswith("s") else name):
        found = _SPELLED.get(spelled) or _SPELLED.get(spelled.lower())
        unit = _parsed(found or spelled, is_spelled_out=found is not None)
        if unit is not None:
            return unit
    return None


def _parsed(name: str, *, is_spelled_out: bool) -> Unit | None:
    registry = _registry()
    with _LOCK:
        readings = registry.parse_unit_name(name)
        for prefix, base, _ in readings:
            symbol = len(name) <= 4 and not is_spelled_out
            if symbol and not _is_usual(prefix, base):
                continue
            if len(name) > 1 and name.isupper():  # the name of a segment, `AB` or `MN`
                continue
            if not symbol and prefix and not name.startswith(prefix):  # `exact` is no carat
                continue
            if registry.is_constant(prefix + base):
                continue
            return registry.size_of(prefix + base)
    return None


def _is_usual(prefix: str, base: str) -> bool:
    """Whether a symbol is one that an answer may hold: `ml`, and no `cd`, a hundredth of a day."""
    if prefix in _PREFIXES_OF_LENGTHS:
        return base in ("meter", "liter", "gram", "pascal")
    return base in (_METRIC if prefix else _SYMBOLS) and prefix in _PREFIXES


class _Registry:
    """pint's, with money, and sizes in fractions."""

    def __init__(self) -> None:
        import pint  # 0.3 s, only where a unit is met

        self._pint: Any = cast(Any, pint).UnitRegistry(non_int_type=Fraction, cache_folder=None)
        for definition in _DEFINITIONS:
            self._pint.define(definition)
        self._container: Any = self._pint.UnitsContainer
        self._degree = self._root("degree")[0]

    def parse_unit_name(self, name: str) -> tuple[tuple[str, str, str], ...]:
        return self._pint.parse_unit_name(name)

    def is_constant(self, name: str) -> bool:
        """What measures nothing, or is a constant of nature."""
        return "constant" in name or name in ("speed_of_light", "elementary_charge", "pi")

    def _root(self, name: str) -> tuple[Any, dict[str, Any]]:
        size, powers = self._pint.get_root_units(self._container({name: 1}))
        return size, dict(powers._units)

    def size_of(self, name: str) -> Unit | None:
        """What it measures and its size, an angle's in degrees; None where that is no fraction."""
        if name == "radian":
            return RADIANS
        size, powers = self._root(name)
        if not powers or not isinstance(size, (int, Fraction)):
            return None
        if any(Fraction(power).denominator != 1 for power in powers.values()):
            return None
        size = Fraction(size)
        angles = int(powers.get("radian", 0))
        for _ in range(abs(angles)):
            size = size / self._degree if angles > 0 else size * self._degree
        if name in ("degree_Celsius", "degree_Fahrenheit"):
            return Unit(((f"temperature {name[7]}", 1),))
        named = {"angle" if key == "radian" else key: int(power) for key, power in powers.items()}
        return Unit(tuple(sorted(named.items())), size)


_LOCK = threading.RLock()


@cache
def _made() -> _Registry:
    return _Registry()


def _registry() -> _Registry:
    with _LOCK:
        return _made()
