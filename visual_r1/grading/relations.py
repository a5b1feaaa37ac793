"""Inequalities: `x > 3`, `2 < x ≤ 5`, `x > 2 and x < 5`."""

from collections.abc import Sequence

from visual_r1.grading.expressions import Undefined, difference, evaluate, variables
from visual_r1.grading.forms import Relation
from visual_r1.grading.parsing import parse
from visual_r1.grading.spelling import Token, Unreadable
from visual_r1.grading.splitting import split

COMPARISONS = ("<", ">", "≤", "≥")
_MIRROR = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "≠": "≠"}


def read_relation(tokens: Sequence[Token]) -> Relation:
    """`x > 3`, `3 < x`, `2 < x ≤ 5`, `5 ≥ x > 2`, all brought to low < subject < high.

    Raises:
        Unreadable: anything else, such as `0 < 7 < 9`, which says nothing of a variable.
    """
    parts, found = split(tokens, (*COMPARISONS, "≠"))
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
    if not variables(subject):
        raise Unreadable("an inequality about no variable")
    return Relation(subject, low, high, found[0] == "≤", found[1] == "≤")


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
