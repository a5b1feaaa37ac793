"""The text of an answer to its form.

From the outside in: a list (`x = 3 or x = 5`, `5, 6`), a label and a chain (`AB = 3√5 ≈ 6.71`), a
relation (`2 < x < 5`), a bracketed group, a ratio, a quantity with its unit, a word.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from visual_r1.grading.expressions import (
    Binary,
    Degree,
    Expression,
    Literal,
    Negative,
    variables,
)
from visual_r1.grading.forms import (
    Answer,
    Equation,
    Form,
    Group,
    Label,
    Quantity,
    Ratio,
    Relation,
    Word,
)
from visual_r1.grading.labels import APPROXIMATORS, OPENERS, number_words, read_label
from visual_r1.grading.parsing import parse
from visual_r1.grading.spelling import Token, Unreadable, canonical, tokenise
from visual_r1.grading.units import DEGREES, Unit, split_unit

MAX_ITEMS = 12
MAX_NESTING = 4

_OPENING = {"(": 1, "{": 1, "[": 1, "\\{": 1, ")": -1, "}": -1, "]": -1, "\\}": -1}
_SIGNS = {
    "approx": "≈",
    "le": "≤",
    "ge": "≥",
    "ne": "≠",
    "neq": "≠",
    "cup": ";",
    "lbrace": "\\{",
    "rbrace": "\\}",
}
_EQUAL = ("=", "≈", "is", "equals", "are")
_COMPARISONS = ("<", ">", "≤", "≥")
_ARTICLES = ("a", "an", "the")


@lru_cache(maxsize=8192)
def read(text: str) -> tuple[Answer, ...]:
    """The readings of `text`, likeliest first: `10 m` is ten metres, or ten times m.

    Raises:
        Unreadable: outside the grammar or its limits.
    """
    tokens = tokenise(canonical(text))
    if not tokens:
        raise Unreadable("nothing is there")
    readings: list[Answer] = []
    problem = Unreadable("")
    for with_unit in (True, False):
        try:
            reading = _list(_spelled_alike(tokens), with_unit, 0)
        except Unreadable as error:
            problem = error
        else:
            if reading not in readings:
                readings.append(reading)
    if not readings:
        raise problem
    return tuple(readings)


def _spelled_alike(tokens: Sequence[Token]) -> list[Token]:
    """Commands that stand for a sign become that sign."""
    return [
        Token("symbol", _SIGNS[token.text], token.spaced)
        if token.kind == "command" and token.text in _SIGNS
        else token
        for token in tokens
    ]


def _split(
    tokens: Sequence[Token], separators: Sequence[str]
) -> tuple[list[Sequence[Token]], list[str]]:
    """The parts between top-level `separators`, and the separators in between."""
    parts: list[Sequence[Token]] = []
    found: list[str] = []
    depth = start = 0
    for index, token in enumerate(tokens):
        depth += _OPENING.get(token.text, 0) if token.kind == "symbol" else 0
        if depth == 0 and token.kind != "number" and token.text.lower() in separators:
            parts.append(tokens[start:index])
            found.append(token.text.lower())
            start = index + 1
    parts.append(tokens[start:])
    return parts, found


def _list(tokens: Sequence[Token], with_unit: bool, nesting: int) -> Answer:
    if nesting > MAX_NESTING:
        raise Unreadable(f"groups nested deeper than {MAX_NESTING}")
    parts, found = _split(tokens, (",", ";", "or", "and"))
    if not found:
        return _answer(tokens, with_unit, nesting)
    words = _words(tokens)
    if words is not None and number_words(words) is not None:
        return _answer(tokens, with_unit, nesting)  # one hundred and five
    parts = [part for part in parts if part]  # `3, 4, and 5`
    if tokens[0].text.lower() in ("either", "both"):
        parts[0] = parts[0][1:]
    if not 1 < len(parts) <= MAX_ITEMS:
        raise Unreadable("a list with one item or too many")
    return Answer((Group("list", tuple(_answer(part, with_unit, nesting) for part in parts)),))


def _answer(tokens: Sequence[Token], with_unit: bool, nesting: int) -> Answer:
    tokens = _without_openers(tokens)
    if not tokens:
        raise Unreadable("nothing is there")
    if any(token.kind == "symbol" and token.text in (*_COMPARISONS, "≠") for token in tokens):
        return Answer((_relation(tokens),))
    parts, found = _split(tokens, _EQUAL)
    parts = [_without_openers(part) for part in parts]
    labels: list[Label] = []
    if not found and (labelled := _colon(tokens)) is not None:
        label, tokens = labelled
        return Answer(_forms(tokens, with_unit, nesting), (label,))
    while len(parts) > 1 and (label := read_label(parts[0])) is not None:
        labels.append(label)
        parts = parts[1:]
    if len(parts) == 2 and not labels and (label := read_label(parts[1])) is not None:
        return Answer(_forms(parts[0], with_unit, nesting), (label,))
    if len(parts) == 1:
        return Answer(_forms(parts[0], with_unit, nesting), tuple(labels))
    if len(parts) > 4:
        raise Unreadable("a chain of more than four values")
    return _chain(parts, found, labels, with_unit, nesting)


def _chain(
    parts: Sequence[Sequence[Token]],
    found: Sequence[str],
    labels: Sequence[Label],
    with_unit: bool,
    nesting: int,
) -> Answer:
    """Values that follow one another; an equation in variables is one of its own."""
    forms = [form for part in parts for form in _forms(part, with_unit, nesting)]
    if len(forms) == 2 and found[-1] == "=" and not labels:
        left, right = forms
        if isinstance(left, Quantity) and isinstance(right, Quantity):
            names = variables(left.expression) | variables(right.expression)
            if names:
                return Answer((Equation(left.expression, right.expression),))
    return Answer(tuple(forms), tuple(labels))


def _without_openers(tokens: Sequence[Token]) -> Sequence[Token]:
    """Drop `so`, `therefore`, `approximately`, `≈` in front."""
    while tokens and (
        (tokens[0].kind == "word" and tokens[0].text.lower() in APPROXIMATORS)
        or (tokens[0].kind == "word" and tokens[0].text.lower() in OPENERS and len(tokens) > 1
            and tokens[1].text.lower() not in _EQUAL and tokens[1].text != ":")
        or tokens[0].text == "≈"
        or (tokens[0].text == "," and len(tokens) > 1)
    ):  # fmt: skip
        tokens = tokens[1:]
    return tokens


def _colon(tokens: Sequence[Token]) -> tuple[Label, Sequence[Token]] | None:
    """`perimeter: 24`, where what stands before the colon is a label."""
    parts, found = _split(tokens, (":",))
    if len(found) == 1 and parts[1] and (label := read_label(parts[0])) is not None:
        return label, parts[1]
    return None


def _forms(tokens: Sequence[Token], with_unit: bool, nesting: int) -> tuple[Form, ...]:
    if not tokens:
        raise Unreadable("a value is missing")
    group = _group(tokens, with_unit, nesting)
    if group is not None:
        return (group,)
    signs = [i for i, token in enumerate(tokens) if token[:2] == ("command", "pm")]
    if signs:
        return (_plus_minus(tokens, signs, with_unit, nesting),)
    parts, found = _split(tokens, (":", "to"))
    if found:
        if len(parts) > 4:
            raise Unreadable("a ratio of more than four terms")
        return (Ratio(tuple(_quantity(part, with_unit).expression for part in parts)),)
    try:
        return (_quantity(tokens, with_unit),)
    except Unreadable:
        word = _word(tokens)
        if word is None:
            raise
        return (word,)


def _group(tokens: Sequence[Token], with_unit: bool, nesting: int) -> Group | None:
    """`(2, 5)`, `[2, 5)`, `\\{2, 5\\}`; a bracket around one value is no group, save a set."""
    first, last = tokens[0].text, tokens[-1].text
    if len(tokens) < 3 or first not in ("(", "[", "{", "\\{") or last not in (")", "]", "}", "\\}"):
        return None
    inside = tokens[1:-1]
    parts, found = _split(inside, (",", ";"))
    is_set = first in ("{", "\\{") and last in ("}", "\\}")
    if not found and first != "\\{":
        return None
    if not is_set and (first not in "([" or last not in ")]"):
        raise Unreadable("brackets that do not match")
    if len(parts) > MAX_ITEMS or nesting >= MAX_NESTING or not all(parts):
        raise Unreadable("a group with an empty item, or too large")
    kind = "set" if is_set else first + last
    return Group(kind, tuple(_answer(part, with_unit, nesting + 1) for part in parts))


def _plus_minus(
    tokens: Sequence[Token], signs: Sequence[int], with_unit: bool, nesting: int
) -> Group:
    if len(signs) > 1:
        raise Unreadable("more than one ±")
    place = signs[0]
    both: list[Answer] = []
    for sign in "+-":
        tokens_with_sign = [*tokens[:place], Token("symbol", sign, False), *tokens[place + 1 :]]
        both.append(_answer(tokens_with_sign, with_unit, nesting))
    return Group("list", tuple(both))


def _quantity(tokens: Sequence[Token], with_unit: bool) -> Quantity:
    unit: Unit | None = None
    percent = False
    if tokens and tokens[-1].text.lower() in ("%", "percent"):
        tokens, percent = tokens[:-1], True
    elif with_unit:
        tokens, unit = split_unit(tokens)
    words = _words(tokens)
    number = number_words(words) if words else None
    expression: Expression = Literal(number) if number is not None else parse(tokens)
    if isinstance(expression, Degree):
        expression = expression.inside
        unit = unit or DEGREES
    elif unit is None and _all_degrees(expression):
        unit = DEGREES
    return Quantity(expression, _decimals(expression), unit, percent)


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


def _decimals(expression: Expression) -> int | None:
    match expression:
        case Literal(_, decimals):
            return decimals
        case Negative(Literal(_, decimals)):
            return decimals
        case _:
            return None


def _words(tokens: Sequence[Token]) -> list[str] | None:
    """The words in lower case where there is nothing else (hyphens aside)."""
    if not all(token.kind == "word" or token.text in ("-", "'") for token in tokens):
        return None
    return [token.text.lower() for token in tokens if token.kind == "word"]


def _word(tokens: Sequence[Token]) -> Word | None:
    signed = [token.text for token in tokens]
    if signed in (["infty"], ["+", "infty"]):
        return Word("infinity")
    if signed == ["-", "infty"]:
        return Word("-infinity")
    words = _words(tokens)
    kept = [word for word in words or () if word not in _ARTICLES]
    return Word(" ".join(kept)) if kept else None


def _relation(tokens: Sequence[Token]) -> Relation:
    """`x > 3`, `3 < x`, `2 < x ≤ 5`, `5 ≥ x > 2`, all brought to low < subject < high."""
    parts, found = _split(tokens, (*_COMPARISONS, "≠"))
    sides = [parse(part) for part in parts]
    if len(found) == 1:
        left, right = sides
        if not variables(left):
            left, right, sign = right, left, _MIRROR[found[0]]
        else:
            sign = found[0]
        if not variables(left) or variables(right):
            raise Unreadable("an inequality without a variable on one side alone")
        if sign == "≠":
            return Relation(left, right, right)
        closed = sign in ("≤", "≥")
        if sign in ("<", "≤"):
            return Relation(left, None, right, high_closed=closed)
        return Relation(left, right, None, low_closed=closed)
    if len(found) != 2 or "≠" in found or (found[0] in "<≤") != (found[1] in "<≤"):
        raise Unreadable("a chain of inequalities that do not point the same way")
    if found[0] not in "<≤":
        sides, found = sides[::-1], [_MIRROR[sign] for sign in found[::-1]]
    low, subject, high = sides
    return Relation(subject, low, high, found[0] == "≤", found[1] == "≤")


_MIRROR = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "≠": "≠"}


def flattened(answer: Answer) -> Iterator[Answer]:
    """The items of a list, lists inside lists opened; the answer itself where it is no list."""
    match answer.chain:
        case (Group("list" | "set", items),):
            for item in items:
                yield from flattened(replace(item, labels=item.labels or answer.labels))
        case _:
            yield answer
