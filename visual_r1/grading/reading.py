"""The text of an answer to its form.

From the outside in: a list (`x = 3 or x = 5`, `5, 6`), a label and a chain (`AB = 3√5 ≈ 6.71`), a
relation (`2 < x < 5`, `x > 2 and x < 5`), a bracketed group, a ratio, a quantity with its unit, a
word.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

from visual_r1.grading.expressions import variables
from visual_r1.grading.forms import (
    LISTS,
    STATEMENTS,
    Equation,
    Form,
    Group,
    Label,
    Quantity,
    Ratio,
    Reading,
    Relation,
    Word,
)
from visual_r1.grading.labels import APPROXIMATORS, OPENERS, read_label
from visual_r1.grading.numerals import number_words
from visual_r1.grading.phrases import conclusion, said_and_clause, takes_back
from visual_r1.grading.relations import COMPARISONS, merged, read_relation
from visual_r1.grading.spelling import Token, Unreadable, canonical, tokenise
from visual_r1.grading.times import read_time
from visual_r1.grading.units import split_unit
from visual_r1.grading.values import (
    FIGURES_IN_PLURAL,
    compound_quantity,
    mixed_in_words,
    read_name,
    read_quantity,
    read_word,
    words_alone,
)

MAX_ITEMS = 12
MAX_NESTING = 4

_SIGNS = {
    "approx": "≈", "le": "≤", "ge": "≥", "ne": "≠", "cup": ";", "in": "∈", "parallel": "∥",
    "perp": "⊥", "cong": "≅", "sim": "∼", "langle": "⟨", "rangle": "⟩",
}  # fmt: skip
_EQUAL = ("=", "≈", "∈", "is", "equals", "are")
_LEFT, _RIGHT = ("(", "[", "{", "\\{", "⟨"), (")", "]", "}", "\\}", "⟩")
_DEEPER = {**dict.fromkeys(_LEFT, 1), **dict.fromkeys(_RIGHT, -1)}
# Lengths, radii, heights, ...: what the formula of an area or a perimeter is written in.
_OF_FORMULAS = frozenset("abdhlnprsw")


@lru_cache(maxsize=8192)
def read(text: str) -> tuple[Reading, ...]:
    """The readings of `text`, likeliest first: `10 m` is ten metres, or ten times m.

    Raises:
        Unreadable: outside the grammar or its limits.
    """
    text = canonical(text)
    if (found := said_and_clause(text)) is not None:
        return _with_clause(*found)
    if (found := conclusion(text)) is not None:
        return _concluded(*found)
    return _read(text)


def _with_clause(said: str, clause: str) -> tuple[Reading, ...]:
    """`Yes, they are parallel`: yes, and parallel."""
    readings = (Reading((Word(said),)),)
    with suppress(Unreadable):
        readings += _read(clause)
    return readings


def _concluded(premise: str, text: str) -> tuple[Reading, ...]:
    """`AB = 5 cm, so 5`: what follows, and where the premise is a value it must say the same."""
    readings = _read(text)
    try:
        before = _read(premise)[0]
    except Unreadable:
        if takes_back(premise) or not any(sign in premise for sign in ("=", " is ", " are ")):
            raise
        return readings
    match before.chain:
        case (Equation(),):
            return readings
        case (Group(kind),) if kind in STATEMENTS:
            return readings
        case _:
            chained = (
                replace(one, chain=(*before.chain, *one.chain), labels=one.labels or before.labels)
                for one in readings
            )
            return tuple(chained)


def _read(text: str) -> tuple[Reading, ...]:
    tokens = _with_signs(tokenise(text))
    if not tokens:
        raise Unreadable("nothing is there")
    readings: list[Reading] = []
    problem = Unreadable("")
    for with_unit in (True, False):
        try:
            reading = _list(tokens, with_unit, 0)
        except Unreadable as error:
            problem = error
        else:
            if reading not in readings:
                readings.append(reading)
    if tokens[0].text.lower() in FIGURES_IN_PLURAL and len(tokens) > 3:
        with suppress(Unreadable):  # the angles 2, 3 and 7 by their numbers alone
            listed = _list(tokens[1:], True, 0)
            readings.append(replace(listed, labels=(Label("noun", tokens[0].text.lower()),)))
    if len(tokens) == 1 and tokens[0].kind == "word" and 1 < len(tokens[0].text) < 4:
        word = read_word(tokens)  # `yes`, which is also y·e·s
        if word is not None and tokens[0].text.islower():
            readings.append(Reading((word,)))
    mixed = mixed_in_words(tokens)
    if mixed is not None:
        readings.append(Reading((mixed,)))
    if not readings:
        raise problem
    return tuple(readings)


def _with_signs(tokens: Sequence[Token]) -> list[Token]:
    """Commands that stand for a sign become that sign; `≅` before a number is `≈`."""
    alike = [
        Token("symbol", _SIGNS[token.text], token.spaced)
        if token.kind == "command" and token.text in _SIGNS
        else token
        for token in tokens
    ]
    for index, following in enumerate(alike[1:]):
        if alike[index].text in ("≅", "∼") and following.kind == "number":
            alike[index] = Token("symbol", "≈", alike[index].spaced)
    return alike


def flattened(answer: Reading) -> Iterator[Reading]:
    """The items of a list, lists inside lists opened; the answer itself where it is no list."""
    match answer.chain:
        case (Group(kind, items),) if kind in LISTS:
            for item in items:
                yield from flattened(replace(item, labels=item.labels or answer.labels))
        case _:
            yield answer


def _list(tokens: Sequence[Token], with_unit: bool, nesting: int) -> Reading:
    if nesting > MAX_NESTING:
        raise Unreadable(f"groups nested deeper than {MAX_NESTING}")
    parts, found = _split(tokens, (",", ";", "or", "and"))
    # One hundred and five degrees are no list.
    if not found or number_words(words_alone(split_unit(tokens)[0]) or ()) is not None:
        return _answer(tokens, with_unit, nesting)
    if (compound := compound_quantity(tokens)) is not None:
        return Reading((compound,))
    if (labelled := _label_of_list(tokens)) is not None:
        label, tokens = labelled
        return replace(_list(tokens, with_unit, nesting), labels=(label,))
    parts = [part for part in parts if part]  # `3, 4, and 5`
    if tokens[0].text.lower() in ("either", "both"):
        parts[0] = parts[0][1:]
    figure = FIGURES_IN_PLURAL.get(tokens[0].text.lower())
    if figure is not None and len(parts[0]) > 1:  # angles 2, 3 and 7
        mark = Token("word", figure, True)
        parts = [[mark, *parts[0][1:]], *([mark, *part] for part in parts[1:])]
    if not 1 < len(parts) <= MAX_ITEMS:
        raise Unreadable("a list with one item or too many")
    items = tuple(_answer(part, with_unit, nesting) for part in parts)
    match items:
        case (Reading((Relation() as one,)), Reading((Relation() as other,))) if "or" not in found:
            both = merged(one, other, if_not_empty=found[0] != "and")
            if both is not None:
                return Reading((both,))
        case _:
            pass
    return Reading((Group("or" if "or" in found else "list", items),))


def _label_of_list(tokens: Sequence[Token]) -> tuple[Label, Sequence[Token]] | None:
    """`The sum of x and y is 7`: a label that would itself look like a list; None without one."""
    parts, found = _split(tokens, _EQUAL)
    if len(found) != 1 or not _split(parts[0], (",", "and"))[1]:
        return None
    label = read_label(parts[0])
    return None if label is None or label.kind != "noun" or not parts[1] else (label, parts[1])


def _answer(tokens: Sequence[Token], with_unit: bool, nesting: int) -> Reading:
    tokens = _without_openers(tokens)
    if not tokens:
        raise Unreadable("nothing is there")
    sides, signs = _split(tokens, COMPARISONS)
    if signs:
        return Reading((read_relation(sides, signs),))
    parts, found = _split(tokens, _EQUAL)
    parts = [_without_openers(part) for part in parts]
    labels: list[Label] = []
    if not found and (labelled := _labelled(tokens)) is not None:
        label, tokens = labelled
        return Reading(_forms(tokens, with_unit, nesting), (label,))
    while len(parts) > 1 and (label := read_label(parts[0])) is not None:
        labels.append(label)
        parts = parts[1:]
    if len(parts) == 2 and not labels and (label := read_label(parts[1])) is not None:
        return Reading(_forms(parts[0], with_unit, nesting), (label,))
    if len(parts) > 2 and not labels:  # 34/2 = x = 17
        named = [read_label(part) for part in parts[1:-1]]
        if all(label is not None and label.kind == "variable" for label in named):
            labels = [label for label in named if label is not None]
            parts, found = [parts[0], parts[-1]], ["="]
    if len(parts) == 1:
        return Reading(_forms(parts[0], with_unit, nesting), tuple(labels))
    if len(parts) > 4:
        raise Unreadable("a chain of more than four values")
    return _chain(parts, found, labels, with_unit, nesting)


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


def _labelled(tokens: Sequence[Token]) -> tuple[Label, Sequence[Token]] | None:
    """`perimeter: 24`, `A(1, 4)`, `the point (1, 4)`: the label and its value; None without one."""
    parts, found = _split(tokens, (":",))
    if len(found) == 1 and parts[1] and (label := read_label(parts[0])) is not None:
        return label, parts[1]
    start = _opening_of(tokens)
    if not start or tokens[start].text != "(" or not _split(tokens[start + 1 : -1], (",",))[1]:
        return None
    name = tokens[0]
    if start == 1 and name.kind == "word" and len(name.text) == 1 and name.text.isupper():
        return Label("points", name.text), tokens[1:]
    label = read_label(tokens[:start])
    return (
        None if label is None or label.kind not in ("noun", "points") else (label, tokens[start:])
    )


def _chain(
    parts: Sequence[Sequence[Token]],
    found: Sequence[str],
    labels: Sequence[Label],
    with_unit: bool,
    nesting: int,
) -> Reading:
    """Values that follow one another; an equation in variables is one of its own."""
    forms = [form for part in parts for form in _forms(part, with_unit, nesting)]
    if len(forms) == 2 and found[-1] == "=" and not labels:
        left, right = forms
        if isinstance(left, Quantity) and isinstance(right, Quantity):
            names = variables(left.expression) | variables(right.expression)
            if names:
                return Reading((Equation(left.expression, right.expression),))
    # A = πr² = 25π: an area, a perimeter, ...; `x = 5 y = 4`, two answers, must not pass for one.
    of_a_formula = any(
        label.name[0].isupper() if label.kind == "variable" else label.kind == "noun" and label.name
        for label in labels
    )
    if of_a_formula and not _is_formula(forms[-1]):
        forms = [form for form in forms if not _is_formula(form)]
    return Reading(tuple(forms), tuple(labels))


def _is_formula(form: Form) -> bool:
    names = variables(form.expression) if isinstance(form, Quantity) else frozenset[str]()
    return bool(names) and names <= _OF_FORMULAS


def _forms(tokens: Sequence[Token], with_unit: bool, nesting: int) -> tuple[Form, ...]:
    if not tokens:
        raise Unreadable("a value is missing")
    if tokens[0][:2] == ("command", "matrix"):
        return (_matrix(tokens[1:], with_unit, nesting),)
    if (conditions := _conditions(tokens)) is not None:
        return _list(conditions, with_unit, nesting + 1).chain
    signs = [i for i, token in enumerate(tokens) if token[:2] == ("command", "pm")]
    group = (
        None if len(signs) == 1 and tokens[0].text == "(" else _group(tokens, with_unit, nesting)
    )
    if group is not None:
        return (group,)
    parts, found = _split(tokens, tuple(STATEMENTS))
    if len(found) == 1:
        sides = tuple(_answer(part, with_unit, nesting) for part in parts)
        return (Group(found[0], sides),)
    if len(signs) > 1:
        raise Unreadable("more than one ±")
    if signs:
        before, after = tokens[: signs[0]], tokens[signs[0] + 1 :]
        both = (
            _answer([*before, Token("symbol", sign, False), *after], with_unit, nesting)
            for sign in "+-"
        )
        return (Group("list", tuple(both)),)
    time = read_time(tokens)
    if time is not None and time[1]:
        return (time[0],)
    parts, found = _split(tokens, (":", "to"))
    if found:
        if len(parts) > 4:
            raise Unreadable("a ratio of more than four terms")
        terms = tuple(read_quantity(part, with_unit).expression for part in parts)
        return (Ratio(terms, time[0] if time and len(terms) == 2 else None),)
    name = read_name(tokens)
    if name is not None and (name.mark or len(name.points) > 1):
        return (name,)
    try:
        return (read_quantity(tokens, with_unit),)
    except Unreadable:
        word = read_word(tokens)
        if word is None:
            raise
        return (word,)


def _group(tokens: Sequence[Token], with_unit: bool, nesting: int) -> Group | None:
    """`(2, 5)`, `[2, 5)`, `\\{2, 5\\}`; a bracket around one value is no group, save a set."""
    first, last = tokens[0].text, tokens[-1].text
    if len(tokens) < 3 or first not in _LEFT or last not in _RIGHT:
        return None
    inside = tokens[1:-1]
    parts, found = _split(inside, (",", ";"))
    is_set = first in ("{", "\\{") and last in ("}", "\\}")
    if not found and first != "\\{":
        return None
    if not is_set and (first not in "([⟨" or last not in ")]⟩"):
        raise Unreadable("brackets that do not match")
    if len(parts) > MAX_ITEMS or nesting >= MAX_NESTING or not all(parts):
        raise Unreadable("a group with an empty item, or too large")
    kind = "set" if is_set else first + last
    return Group(kind, tuple(_answer(part, with_unit, nesting + 1) for part in parts))


def _matrix(tokens: Sequence[Token], with_unit: bool, nesting: int) -> Group:
    rows = _split(tokens[1:-1], (",",))[0]
    if len(tokens) < 3 or len(rows) > MAX_ITEMS or nesting >= MAX_NESTING:
        raise Unreadable("a matrix that is empty or too large")
    read_rows: list[Reading] = []
    for row in rows:
        cells = _split(row[1:-1], (",",))[0]
        if len(cells) > MAX_ITEMS or not all(cells):
            raise Unreadable("a matrix with an empty cell, or too large")
        items = tuple(_answer(cell, with_unit, nesting + 1) for cell in cells)
        read_rows.append(Reading((Group("row", items),)))
    return Group("matrix", tuple(read_rows))


def _conditions(tokens: Sequence[Token]) -> Sequence[Token] | None:
    """What `\\{x \\mid -3 \\le x < 2\\}` says of its variable; None for anything else."""
    if tokens[0].text not in ("{", "\\{") or tokens[-1].text not in ("}", "\\}"):
        return None
    parts, found = _split(tokens[1:-1], ("|", "mid", ":"))
    if len(found) != 1 or not parts[0] or read_label(parts[0][:1]) is None:
        return None
    if len(parts[0]) > 1 and parts[0][1].text != "∈":
        return None
    kept: list[Token] = []
    for part in _split(parts[1], (",", "and"))[0]:
        if part and not any(token.text == "∈" for token in part):
            kept += [Token("symbol", ",", False), *part] if kept else part
    return kept or None


def _split(
    tokens: Sequence[Token], separators: Sequence[str]
) -> tuple[list[Sequence[Token]], list[str]]:
    """The parts between the `separators` outside all brackets, and the separators in between."""
    parts: list[Sequence[Token]] = []
    found: list[str] = []
    depth = start = 0
    for index, token in enumerate(tokens):
        depth += _DEEPER.get(token.text, 0) if token.kind == "symbol" else 0
        if depth == 0 and token.kind != "number" and token.text.lower() in separators:
            parts.append(tokens[start:index])
            found.append(token.text.lower())
            start = index + 1
    parts.append(tokens[start:])
    return parts, found


def _opening_of(tokens: Sequence[Token]) -> int | None:
    """Index of the bracket that the last token closes, or None."""
    depth = 0
    for index in range(len(tokens) - 1, -1, -1):
        token = tokens[index]
        depth -= _DEEPER.get(token.text, 0) if token.kind == "symbol" else 0
        if depth <= 0:
            return index if depth == 0 and index < len(tokens) - 1 else None
    return None
