"""Inequalities: `x > 3`, `2 < x ≤ 5`, `AB > CD`, `|x| ≤ 3`."""

from collections.abc import Sequence
from fractions import Fraction

from visual_r1.grading.expressions import (
    Binary,
    Call,
    Expression,
    Literal,
    Negative,
    Undefined,
    Variable,
    difference,
    evaluate,
    variables,
)
from visual_r1.grading.forms import Relation
from visual_r1.grading.parsing import parse
from visual_r1.grading.spelling import Token, Unreadable
from visual_r1.grading.values import read_name

COMPARISONS = ("<", ">", "≤", "≥", "≠")
_MIRRORED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "≠": "≠"}
ZERO = Literal(Fraction(0))


def read_relation(parts: Sequence[Sequence[Token]], found: Sequence[str]) -> Relation:
    """The sides and the signs between them, all brought to low < subject < high.

    Raises:
        Unreadable: anything else, such as `0 < 7 < 9`, which says nothing of a variable.
    """
    sides = [_side(part) for part in parts]
    if len(found) == 1:
        return _of_two(sides[0], sides[1], found[0])
    if len(found) != 2 or "≠" in found or (found[0] in "<≤") != (found[1] in "<≤"):
        raise Unreadable("a chain of inequalities that do not point the same way")
    if found[0] not in "<≤":
        sides, found = sides[::-1], [_MIRRORED[sign] for sign in found[::-1]]
    low, subject, high = sides
    if not variables(subject):
        raise Unreadable("an inequality about no variable")
    return Relation(subject, low, high, found[0] == "≤", found[1] == "≤")


def _side(tokens: Sequence[Token]) -> Expression:
    """A value; or a figure by its name, of which the measure is meant."""
    name = read_name(tokens)
    if name is not None and (name.mark or len(name.points) > 1):
        return Variable(f"{name.mark if name.mark == 'angle' else ''} {name.name}")
    return parse(tokens)


def _of_two(left: Expression, right: Expression, sign: str) -> Relation:
    if not variables(left):
        left, right, sign = right, left, _MIRRORED[sign]
    if not variables(left):
        raise Unreadable("an inequality about no variable")
    if variables(right):  # AB > CD says what CD < AB says
        if sign in (">", "≥"):
            left, right, sign = right, left, _MIRRORED[sign]
        left, right = Binary("-", left, right), ZERO
    if sign == "≠":
        return Relation(left, right, right)
    closed = sign in ("≤", "≥")
    if sign in ("<", "≤"):
        if isinstance(left, Call) and left.name == "abs":
            return Relation(left.inside, Negative(right), right, closed, closed)
        return Relation(left, None, right, high_closed=closed)
    return Relation(left, right, None, low_closed=closed)


def merged(one: Relation, other: Relation, *, if_not_empty: bool) -> Relation | None:
    """`x > 2 and x < 5` as `2 < x < 5`; None where they do not bound one subject from two sides.

    Args:
        one: an inequality.
        other: another.
        if_not_empty: only where something is left between the bounds.
    """
    below, above = (one, other) if one.high is None else (other, one)
    if below.subject != above.subject or below.high is not None or above.low is not None:
        return None
    if below.low is None or above.high is None:
        return None
    if if_not_empty:
        try:
            if difference(evaluate(above.high), evaluate(below.low)) <= 0:
                return None
        except (Undefined, KeyError):
            return None
    return Relation(below.subject, below.low, above.high, below.low_closed, above.high_closed)
