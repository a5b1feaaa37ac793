"""One value: a quantity with its unit, a number in words, the name of a figure, a word."""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from visual_r1.grading.expressions import (
    Binary,
    Degree,
    Expression,
    Literal,
    Negative,
    Undefined,
    evaluate,
)
from visual_r1.grading.forms import Named, Quantity, Word
from visual_r1.grading.labels import points_name
from visual_r1.grading.numerals import number_words
from visual_r1.grading.parsing import literal, parse
from visual_r1.grading.spelling import Token, Unreadable
from visual_r1.grading.units import DEGREES, Unit, split_unit

_ARTICLES = ("a", "an", "the")
_MULTIPLES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_FIGURES = {
    "segment": "segment", "line": "line", "ray": "ray", "angle": "angle", "triangle": "triangle",
    "arc": "arc", "circle": "circle", "overline": "segment", "bar": "segment",
    "overleftrightarrow": "line", "overrightarrow": "ray", "vec": "ray", "widehat": "arc",
    "odot": "circle", "point": "point", "side": "segment", "quadrilateral": "quadrilateral",
    "rectangle": "rectangle", "square": "square", "rhombus": "rhombus", "kite": "kite",
    "parallelogram": "parallelogram", "trapezoid": "trapezoid", "trapezium": "trapezoid",
    "polygon": "polygon", "pentagon": "pentagon", "hexagon": "hexagon", "plane": "plane",
}  # fmt: skip
# The plural in front of a list: "angles 2, 3 and 7".
FIGURES_IN_PLURAL = {
    f"{name}s": name for name in _FIGURES if name not in ("rhombus", "overline", "bar", "vec")
} | {"vertices": "point"}
_POINT = re.compile(r"[A-Za-z0-9]'*")
_PLURAL = re.compile(r"(?!isosceles$)\w{2,}[^sui]s")
_KINDS_OF_TRIANGLE = frozenset(
    ("isosceles", "scalene", "equilateral", "equiangular", "acute", "obtuse", "right")
)


def read_quantity(tokens: Sequence[Token], with_unit: bool) -> Quantity:
    """A value, its unit or percent sign, and the decimals of a plain literal.

    Raises:
        Unreadable: not a value.
    """
    unit: Unit | None = None
    percent = False
    if tokens and tokens[-1].text.lower() in ("%", "percent", "percentage", "pct"):
        tokens, percent = tokens[:-1], True
    elif with_unit:
        whole_text = tokens
        tokens, unit = split_unit(tokens)
        if unit is not None and (whole := compound_quantity(whole_text)) is not None:
            return whole
    multiple = _MULTIPLES.get(tokens[-1].text) if len(tokens) > 1 else None
    if multiple and tokens[-2].kind == "number":
        return replace(
            read_quantity(tokens[:-1], False),
            expression=Binary("*", parse(tokens[:-1]), Literal(Fraction(multiple))),
            decimals=None,
            unit=unit,
            percent=percent,
        )
    number = number_words(words_alone(tokens) or ())
    if number is None:
        expression = parse(tokens)
    else:  # in words
        expression = Literal(-number if tokens[0].text == "-" else number)
    if isinstance(expression, Degree):
        expression = expression.inside
        unit = unit or DEGREES
    elif unit is None and _all_degrees(expression):
        unit = DEGREES
    unsigned = expression.inside if isinstance(expression, Negative) else expression
    decimals = unsigned.decimals if isinstance(unsigned, Literal) else None
    return Quantity(expression, decimals, unit, percent)


def compound_quantity(tokens: Sequence[Token]) -> Quantity | None:
    """`6 ft 3 in`, `1 hour, 30 minutes and 5 seconds`, in the last of the units; None otherwise."""
    places = [i for i, token in enumerate(tokens) if token.kind == "number"]
    if not 2 <= len(places) <= 4 or places[0] != 0:
        return None
    total, last = Fraction(0), None
    for start, end in zip(places, [*places[1:], len(tokens)], strict=True):
        part = list(tokens[start:end])
        while end < len(tokens) and part and part[-1].text.lower() in (",", "and"):
            part.pop()
        number, unit = split_unit(part)
        if len(number) != 1 or unit is None or not unit.measures:
            return None
        if not isinstance(unit.size, Fraction):
            return None
        value = literal(number[0].text).value
        if last is not None:
            factor = last.size / unit.size if isinstance(last.size, Fraction) else Fraction(0)
            # Of the smaller unit less than one of the larger, of which there is a whole number.
            if unit.measures != last.measures or value >= factor or total.denominator != 1:
                return None
            total *= factor
        total, last = total + value, unit
    return Quantity(Literal(total), None, last)


def mixed_in_words(tokens: Sequence[Token]) -> Quantity | None:
    """`2 and 3/4`, `two and three fourths`, `four and a half feet`; None for anything else."""
    tokens, unit = split_unit(tokens)
    places = [i for i, token in enumerate(tokens) if token.text.lower() == "and"]
    if len(places) != 1 or not 0 < places[0] < len(tokens) - 1 or len(tokens) > 12:
        return None
    try:
        whole, part = (
            evaluate(read_quantity(side, False).expression)
            for side in (tokens[: places[0]], tokens[places[0] + 1 :])
        )
    except (Unreadable, Undefined, KeyError):
        return None
    if not (isinstance(whole, Fraction) and isinstance(part, Fraction)):
        return None
    if whole.denominator != 1 or whole <= 0 or not 0 < part < 1:
        return None
    return Quantity(Literal(whole + part), None, unit)


def _all_degrees(expression: Expression) -> bool:
    """Whether a sum's every term carries a degree sign (`180° − 30°`)."""
    match expression:
        case Degree():
            return True
        case Negative(inside):
            return _all_degrees(inside)
        case Binary("+" | "-", left, right):
            return _all_degrees(left) and _all_degrees(right)
        case _:
            return False


def words_alone(tokens: Sequence[Token]) -> list[str] | None:
    """The words in lower case where there is nothing else (hyphens aside)."""
    if not all(token.kind == "word" or token.text in ("-", "'") for token in tokens):
        return None
    return [token.text.lower() for token in tokens if token.kind == "word"]


def read_word(tokens: Sequence[Token]) -> Word | None:
    """Words with articles and plurals left out, an infinity, the empty set; None for the rest."""
    signed = [token.text for token in tokens]
    if signed in (["infty"], ["+", "infty"]):
        return Word("infinity")
    if signed == ["-", "infty"]:
        return Word("-infinity")
    if signed in (["emptyset"], ["\\{", "\\}"]):
        return Word("empty set")
    words = words_alone(tokens)
    kept = [word for word in words or () if word not in _ARTICLES]
    kept = [word[:-1] if _PLURAL.fullmatch(word) else word for word in kept]
    if len(kept) > 1 and kept[-1] == "triangle" and kept[-2] in _KINDS_OF_TRIANGLE:
        kept = kept[:-1]
    return Word(" ".join(kept)) if kept else None


def read_name(tokens: Sequence[Token]) -> Named | None:
    """`\\triangle ABC`, `angle ABC`, `segment AB`, `AB`; None for anything else."""
    mark, rest = "", list(tokens)
    while rest and rest[0].text.lower() in _ARTICLES:
        rest = rest[1:]
    if rest and rest[0].text.lower() in _FIGURES and rest[0].kind in ("word", "command"):
        mark, rest = _FIGURES[rest[0].text.lower()], rest[1:]
    name = points_name([token for token in rest if token.text not in ("{", "}")], marked=bool(mark))
    if name is None or not name[0].isalnum():
        return None
    digits = name.isdigit()  # angle 12
    return Named(mark, (name,) if digits else tuple(_POINT.findall(name)))
