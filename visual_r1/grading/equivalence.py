"""Whether two readings of answers are the same answer."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Literal as OneOf

from visual_r1.grading.expressions import (
    Binary,
    Expression,
    Number,
    Undefined,
    Variable,
    difference,
    evaluate,
    magnitude,
    product,
    to_decimal,
    variables,
)
from visual_r1.grading.forms import (
    Answer,
    Contradiction,
    Equation,
    Form,
    Group,
    Label,
    Quantity,
    Ratio,
    Relation,
    Word,
)
from visual_r1.grading.reading import flattened
from visual_r1.grading.spelling import Unreadable
from visual_r1.grading.units import in_conflict, scaled
from visual_r1.hashing import stable_seed

Rounding = OneOf["exact", "rounded"]

# Irrational values are 50-digit decimals here; a textbook's may have been printed by a float.
RELATIVE = Decimal("1e-9")
# A decimal this long is taken to stand for the value it was cut from: 0.333333 for 1/3.
LONG_DECIMAL = 6
POINTS = 4


def same_answer(answer: Answer, reference: Answer, rounding: Rounding = "exact") -> bool:
    """Whether `answer` says what `reference` says.

    Raises:
        Contradiction: the values that the answer puts equal are not.
        Unreadable: a value is beyond the limits, or cannot be decided.
    """
    for one in (answer, reference):
        _check_chain(one.chain)
    if _labels_differ(answer.labels, reference.labels):
        return False
    if any(_same_form(mine, gold, rounding) for mine in answer.chain for gold in reference.chain):
        return True
    return _same_equation(answer, reference)


def _check_chain(chain: Sequence[Form]) -> None:
    """A chain holds together where each value is the first one, or its rounding."""
    for form in chain[1:]:
        if not _same_form(chain[0], form, "exact"):
            coarser = isinstance(form, Quantity) and form.decimals is not None
            if not (coarser and _same_form(chain[0], form, "rounded")):
                raise Contradiction("the values that the answer puts equal differ")


def _labels_differ(mine: Sequence[Label], gold: Sequence[Label]) -> bool:
    """Whether both sides name something of the same kind, and never the same thing."""
    kinds = {label.kind for label in mine} & {label.kind for label in gold}
    return any(
        {x.name for x in mine if x.kind == kind and x.name}.isdisjoint(
            y.name for y in gold if y.kind == kind
        )
        and any(x.name for x in mine if x.kind == kind)
        and any(y.name for y in gold if y.kind == kind)
        for kind in kinds
    )


def _same_form(mine: Form, gold: Form, rounding: Rounding) -> bool:
    match mine, gold:
        case Quantity(), Quantity():
            return _same_quantity(mine, gold, rounding)
        case Ratio(), Ratio():
            return _proportional(mine.terms, gold.terms)
        case (Ratio((a, b)), Quantity()) | (Quantity(), Ratio((a, b))):
            other = gold if isinstance(gold, Quantity) else mine
            assert isinstance(other, Quantity)
            return _same_quantity(Quantity(Binary("/", a, b)), other, rounding)
        case Word(), Word():
            return mine.text == gold.text
        case Relation(), Relation():
            return _same_relation(mine, gold)
        case (Relation() as relation, Group() as group) | (
            Group() as group,
            Relation() as relation,
        ):
            return _is_interval(group, relation, rounding)
        case Group(), Group():
            return _same_group(mine, gold, rounding)
        case (Group("set" | "list", (only,)), _):
            return same_answer(only, Answer((gold,)), rounding)
        case (_, Group("set" | "list", (only,))):
            return same_answer(Answer((mine,)), only, rounding)
        case Equation(), Equation():
            return _proportional_everywhere(_moved(mine), _moved(gold))
        case _:
            return False


def _same_quantity(mine: Quantity, gold: Quantity, rounding: Rounding) -> bool:
    if in_conflict(mine.unit, gold.unit):
        return False
    if variables(mine.expression) != variables(gold.expression):
        return False
    if variables(mine.expression):
        return _same_everywhere(mine.expression, gold.expression)
    try:
        left, right = evaluate(mine.expression), evaluate(gold.expression)
    except Undefined:
        return False
    if mine.unit is not None and gold.unit is not None and mine.unit.size != gold.unit.size:
        return _same_value(scaled(left, mine.unit), scaled(right, gold.unit))
    if _same_number((left, mine.decimals), (right, gold.decimals), rounding):
        return True
    if mine.percent == gold.percent:
        return False
    hundredth = Fraction(1, 100)
    if mine.percent:
        return _same_value(product(left, hundredth), right)
    return _same_value(left, product(right, hundredth))


def _same_value(left: Number, right: Number) -> bool:
    """Exactly, where both are fractions; else to 1e-9 of the larger."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    gap = to_decimal(magnitude(difference(left, right)))
    size = max(to_decimal(magnitude(left)), to_decimal(magnitude(right)))
    return gap <= to_decimal(product(RELATIVE, size)) or gap < Decimal("1e-40")


def _same_number(
    left: tuple[Number, int | None], right: tuple[Number, int | None], rounding: Rounding
) -> bool:
    """Values, each with the decimals of its literal."""
    if _same_value(left[0], right[0]):
        return True
    for (literal, decimals), (other, other_decimals) in ((left, right), (right, left)):
        if decimals is None or not isinstance(literal, Fraction):
            continue
        if rounding == "rounded" and decimals >= 1 and _rounded(other, decimals) == literal:
            return True
        if decimals >= LONG_DECIMAL and other_decimals is None:
            long = abs(literal) * 10**decimals >= 10 ** (LONG_DECIMAL - 1)
            gap = magnitude(difference(other, literal))
            if long and gap < Fraction(1, 10**decimals):
                return True
    return False


def _rounded(value: Number, decimals: int) -> Fraction:
    """`value` to that many decimals, halves away from zero, as in school."""
    exact = Fraction(value)
    shifted = abs(exact) * 10**decimals
    whole = (2 * shifted.numerator + shifted.denominator) // (2 * shifted.denominator)
    return Fraction(whole if exact >= 0 else -whole, 10**decimals)


def _points(names: Sequence[str]) -> Iterator[dict[str, Fraction]]:
    """Values for the variables: positive, of a few bits, the same for the same names."""
    for index in range(3 * POINTS):
        yield {
            name: Fraction(stable_seed("grading", name, index) % 9973 + 11, 1009) for name in names
        }


def _values_everywhere(left: Expression, right: Expression) -> Iterator[tuple[Number, Number]]:
    """Both values at `POINTS` points where both are defined. Raises `Unreadable` without enough."""
    found = 0
    for at in _points(sorted(variables(left) | variables(right))):
        try:
            pair = evaluate(left, at), evaluate(right, at)
        except Undefined:
            continue
        yield pair
        found += 1
        if found == POINTS:
            return
    raise Unreadable("the expressions are not both defined at enough points")


def _same_everywhere(left: Expression, right: Expression) -> bool:
    return all(_same_value(x, y) for x, y in _values_everywhere(left, right))


def _proportional_everywhere(left: Expression, right: Expression) -> bool:
    if variables(left) != variables(right):
        return False
    pairs = list(_values_everywhere(left, right))
    x0, y0 = pairs[0]
    return all(_same_value(product(x, y0), product(y, x0)) for x, y in pairs[1:])


def _proportional(left: Sequence[Expression], right: Sequence[Expression]) -> bool:
    if len(left) != len(right):
        return False
    return all(
        _same_quantity(
            Quantity(Binary("*", left[0], y)), Quantity(Binary("*", right[0], x)), "exact"
        )
        for x, y in zip(left[1:], right[1:], strict=True)
    )


def _same_bound(left: Expression | None, right: Expression | None) -> bool:
    if left is None or right is None:
        return left is right
    return _same_quantity(Quantity(left), Quantity(right), "exact")


def _same_relation(left: Relation, right: Relation) -> bool:
    return (
        (left.low_closed, left.high_closed) == (right.low_closed, right.high_closed)
        and _same_bound(left.low, right.low)
        and _same_bound(left.high, right.high)
        and _same_bound(left.subject, right.subject)
    )


def _is_interval(group: Group, relation: Relation, rounding: Rounding) -> bool:
    """`(2, 5]` and `2 < x ≤ 5`; infinity stands for an absent bound."""
    if len(group.items) != 2 or group.kind not in ("()", "[]", "(]", "[)"):
        return False
    if not isinstance(relation.subject, Variable):
        return False
    bounds = ((0, relation.low, relation.low_closed), (1, relation.high, relation.high_closed))
    for index, bound, closed in bounds:
        item, bracket = group.items[index], group.kind[index]
        if (bracket in "[]") != closed:
            return False
        if bound is None:
            if item.chain != (Word(("-infinity", "infinity")[index]),):
                return False
        elif not same_answer(item, Answer((Quantity(bound),)), rounding):
            return False
    return relation.low is not relation.high


def _same_group(mine: Group, gold: Group, rounding: Rounding) -> bool:
    unordered = ("list", "set")
    if mine.kind in unordered and gold.kind in unordered:
        return _same_items(
            list(flattened(Answer((mine,)))), list(flattened(Answer((gold,)))), rounding
        )
    if mine.kind != gold.kind or len(mine.items) != len(gold.items):
        return False
    pairs = zip(mine.items, gold.items, strict=True)
    return all(same_answer(x, y, rounding) for x, y in pairs)


def _same_items(mine: Sequence[Answer], gold: list[Answer], rounding: Rounding) -> bool:
    """Each item has its own partner; equivalence is transitive, so the first fit will do."""
    if len(mine) != len(gold):
        return False
    left = list(gold)
    for item in mine:
        partner = next((y for y in left if same_answer(item, y, rounding)), None)
        if partner is None:
            return False
        left.remove(partner)
    return True


def _moved(equation: Equation) -> Expression:
    return Binary("-", equation.left, equation.right)


def _same_equation(answer: Answer, reference: Answer) -> bool:
    """`y = 2x + 3`, read as a label and a value, against `2x − y + 3 = 0`."""
    mine, gold = _as_equation(answer), _as_equation(reference)
    written = (*answer.chain, *reference.chain)
    if mine is None or gold is None or not any(isinstance(form, Equation) for form in written):
        return False
    return _proportional_everywhere(mine, gold)


def _as_equation(answer: Answer) -> Expression | None:
    match answer:
        case Answer((Equation() as equation,), ()):
            return _moved(equation)
        case Answer((Quantity(expression),), (Label("variable", name),)):
            return Binary("-", Variable(name), expression)
        case _:
            return None
