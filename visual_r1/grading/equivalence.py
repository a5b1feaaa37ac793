"""Whether two readings of answers are the same answer."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial, reduce

from visual_r1.grading.closeness import (
    Rounding,
    proportional,
    proportional_everywhere,
    same_everywhere,
    same_number,
)
from visual_r1.grading.expressions import (
    Binary,
    Degree,
    Expression,
    Undefined,
    Variable,
    evaluate,
    product,
    quotient,
    variables,
    with_eulers_number,
)
from visual_r1.grading.figures import correspondence, equal_figures, same_figure
from visual_r1.grading.forms import (
    CORRESPONDENCES,
    LISTS,
    STATEMENTS,
    Clock,
    Contradiction,
    Equation,
    Form,
    Group,
    Label,
    Named,
    Quantity,
    Ratio,
    Reading,
    Relation,
    Word,
)
from visual_r1.grading.reading import flattened
from visual_r1.grading.relations import ZERO
from visual_r1.grading.spelling import Unreadable
from visual_r1.grading.times import same_time
from visual_r1.grading.units import DEGREES, in_conflict


def same_answer(answer: Reading, reference: Reading, rounding: Rounding = "exact") -> bool:
    """Whether `answer` says what `reference` says.

    Raises:
        Contradiction: the values that the answer puts equal are not.
        Unreadable: a value is beyond the limits, or cannot be decided.
    """
    answer, reference = _opened(answer), _opened(reference)
    for first, *others in (answer.chain, reference.chain):
        # A chain holds together where each value is the first one, or its rounding.
        if not all(_is_or_rounds(first, other) for other in others):
            raise Contradiction("the values that the answer puts equal differ")
    names, wanted = equal_figures(answer), equal_figures(reference)
    if names and wanted:  # AB = CD = EF, in any order
        return names == wanted
    if not _labels_differ(answer.labels, reference.labels) and any(
        _same_form(mine, gold, rounding) for mine in answer.chain for gold in reference.chain
    ):
        return True
    if (value := _value_of_a_sum(answer)) is not None and not reference.labels:
        return any(_same_form(value, gold, rounding) for gold in reference.chain)
    # `y = 2x + 3`, read as a label and a value, against `2x − y + 3 = 0`.
    mine, gold = _as_equation(answer), _as_equation(reference)
    return mine is not None and gold is not None and proportional_everywhere(mine, gold)


def _value_of_a_sum(answer: Reading) -> Quantity | None:
    """6 in `G + J = 6` and `AB + BC = 6`: what several figures, by their names, come to.

    Unknowns are to be solved for: `2x = 6`, `x + y = 6`, `2AB = 6` and `AB^2 = 6` are not yet an
    answer.
    """
    match answer:
        case Reading((Equation(left, right),), ()):
            for side, value in ((left, right), (right, left)):
                names = variables(side)
                if len(names) > 1 and not variables(value) and _is_sum_of_figures(side):
                    unit = value if isinstance(value, Degree) else None
                    return Quantity(unit.inside if unit else value, None, DEGREES if unit else None)
        case _:
            pass
    return None


def _opened(answer: Reading) -> Reading:
    """A list of one item is that item, its label included."""
    match answer.chain:
        case (Group(kind, (only,)),) if kind in LISTS:
            return _opened(replace(only, labels=only.labels or answer.labels))
        case _:
            return answer


def _is_or_rounds(value: Form, other: Form) -> bool:
    if _same_form(value, other, "exact"):
        return True
    coarser = isinstance(other, Quantity) and other.decimals is not None
    return coarser and _same_form(value, other, "rounded")


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
    if isinstance(mine, Clock) or isinstance(gold, Clock):
        left, right = _time(mine), _time(gold)
        return left is not None and right is not None and same_time(left, right)
    match mine, gold:
        case Quantity(), Quantity():
            return _same_quantity(mine, gold, rounding)
        case Ratio(), Ratio():
            return _same_ratio(mine, gold)
        case (Ratio((a, b)), Quantity()):
            return _same_quantity(Quantity(Binary("/", a, b)), gold, rounding)
        case (Quantity(), Ratio((a, b))):
            return _same_quantity(mine, Quantity(Binary("/", a, b)), rounding)
        case Word(), Word():
            return mine.text == gold.text
        case Named(), Named():
            return same_figure(mine, gold)
        case Relation(), Relation():
            return _same_relation(mine, gold)
        case Relation(), Group():
            return _is_interval(gold, mine, rounding)
        case Group(), Relation():
            return _is_interval(mine, gold, rounding)
        case Group(), Group():
            return _same_group(mine, gold, rounding)
        case Group(), _:
            return _is_one(mine, Reading((gold,)), rounding)
        case _, Group():
            return _is_one(gold, Reading((mine,)), rounding)
        case Equation(), Equation():
            return proportional_everywhere(_moved(mine), _moved(gold))
        case _:
            return False


def _is_sum_of_figures(side: Expression) -> bool:
    match side:
        case Variable(name):
            return name[0].isupper() or " " in name
        case Binary("+" | "-" | "*", left, right):  # a segment is the product of its letters
            return _is_sum_of_figures(left) and _is_sum_of_figures(right)
        case _:
            return False


def _time(form: Form) -> Clock | None:
    """The time of day that a form is, or may be."""
    return form.time if isinstance(form, Ratio) else form if isinstance(form, Clock) else None


def _same_ratio(mine: Ratio, gold: Ratio) -> bool:
    """Whether two ratios are in proportion.

    Raises:
        Unreadable: 2:30 and 1:15 are one ratio and two times of day.
    """
    if not proportional(mine.terms, gold.terms):
        return False
    if mine.time is not None and gold.time is not None and not same_time(mine.time, gold.time):
        raise Unreadable("these may be ratios, which are the same, or times of day, which are not")
    return True


def _same_statement(mine: Group, gold: Group, rounding: Rounding) -> bool:
    """`AB ∥ CD` and `CD ∥ AB`; `△ABC ≅ △DEF` and `△CAB ≅ △FDE`, and not `△ABC ≅ △EDF`."""
    if mine.kind in CORRESPONDENCES:
        pairs, wanted = correspondence(mine), correspondence(gold)
        if pairs is not None and wanted is not None:
            return pairs in (wanted, frozenset((right, left) for left, right in wanted))
    return _same_items(mine.items, list(gold.items), rounding)


def _same_relation(mine: Relation, gold: Relation) -> bool:
    if (mine.low_closed, mine.high_closed) != (gold.low_closed, gold.high_closed):
        return False
    if not _same_bound(mine.low, gold.low) or not _same_bound(mine.high, gold.high):
        return False
    if _same_bound(mine.subject, gold.subject):
        return True
    # AB − CD < 0 says what 2·AB − 2·CD < 0 says.
    bounds = {bound for bound in (mine.low, mine.high) if bound is not None}
    if bounds != {ZERO} or mine.low is mine.high or isinstance(gold.subject, Variable):
        return False
    return proportional_everywhere(mine.subject, gold.subject, positive=True)


def _is_one(group: Group, other: Reading, rounding: Rounding) -> bool:
    """A list of one; or `3√5 or 6.71`, a value and its rounding."""
    if group.kind not in LISTS:
        return False
    if len(group.items) == 1:
        return same_answer(group.items[0], other, rounding)
    match group:
        case Group(
            "or",
            (
                Reading((Quantity(decimals=None) as exact,), labels),
                Reading((Quantity() as near,), ()),
            ),
        ):
            return _is_or_rounds(exact, near) and same_answer(
                Reading((exact, near), labels), other, rounding
            )
        case _:
            return False


def _same_quantity(mine: Quantity, gold: Quantity, rounding: Rounding) -> bool:
    if in_conflict(mine.unit, gold.unit) or _is_percent_of_unit(mine, gold):
        return False
    if _same_value(mine, gold, rounding):
        return True
    # An e may be a letter as any other, an eccentricity say, or Euler's number.
    if "e" not in variables(mine.expression) | variables(gold.expression):
        return False
    return _same_value(
        replace(mine, expression=with_eulers_number(mine.expression)),
        replace(gold, expression=with_eulers_number(gold.expression)),
        rounding,
    )


def _same_value(mine: Quantity, gold: Quantity, rounding: Rounding) -> bool:
    if variables(mine.expression) != variables(gold.expression):
        return False
    if variables(mine.expression):
        return same_everywhere(mine.expression, gold.expression)
    try:
        left, right = evaluate(mine.expression), evaluate(gold.expression)
    except Undefined:
        return False
    if (
        mine.unit is not None
        and gold.unit is not None
        and mine.unit.measures == gold.unit.measures
        and mine.unit.size != gold.unit.size
    ):
        # Each in the unit of the other, so that a literal is compared in its own digits.
        factor = quotient(mine.unit.size, gold.unit.size)
        return same_number(
            (left, mine.decimals), (quotient(right, factor), None), rounding
        ) or same_number((product(left, factor), None), (right, gold.decimals), rounding)
    if same_number((left, mine.decimals), (right, gold.decimals), rounding):
        return True
    if mine.percent == gold.percent:
        return False
    # The percentage keeps its digits, the other side is brought to hundredths.
    hundred = Fraction(100)
    if mine.percent:
        return same_number((left, mine.decimals), (product(right, hundred), None), rounding)
    return same_number((product(left, hundred), None), (right, gold.decimals), rounding)


def _is_percent_of_unit(mine: Quantity, gold: Quantity) -> bool:
    """30% and 30°, 5% and $5."""
    unit = gold.unit if mine.percent else mine.unit
    return mine.percent != gold.percent and unit is not None and bool(unit.measures)


def _same_bound(left: Expression | None, right: Expression | None) -> bool:
    if left is None or right is None:
        return left is right
    return _same_quantity(Quantity(left), Quantity(right), "exact")


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
        elif not same_answer(item, Reading((Quantity(bound),)), rounding):
            return False
    return relation.low is not relation.high


def _same_group(mine: Group, gold: Group, rounding: Rounding) -> bool:
    if mine.kind in LISTS and gold.kind in LISTS:
        left, right = list(flattened(Reading((mine,)))), list(flattened(Reading((gold,))))
        if bool(_in_order(left)) == bool(_in_order(right)):
            return _same_items(left, right, rounding) or _same_solutions(left, right, rounding)
        mine_in_order, gold_in_order = _in_order(left), _in_order(right)
        if any(item.labels for item in (right if mine_in_order else left)):
            return False
        return _same_tuple(mine_in_order or left, gold_in_order or right, rounding)
    if mine.kind in STATEMENTS:
        return mine.kind == gold.kind and _same_statement(mine, gold, rounding)
    for pair, values in ((mine, gold), (gold, mine)):
        if pair.kind == "()" and values.kind in LISTS and (ordered := _in_order(values.items)):
            return _same_tuple(pair.items, ordered, rounding)
    return mine.kind == gold.kind and _same_tuple(mine.items, gold.items, rounding)


def _in_order(items: Sequence[Reading]) -> list[Reading]:
    """`x = 5, y = 3` as the values of x and y in that order; empty where they are not so named."""
    names: dict[str, Reading] = {}
    for item in items:
        match item.labels:
            case (Label("variable", name),) if "_" not in name:
                names[name] = replace(item, labels=())
            case _:
                return []
    return [names[name] for name in sorted(names)] if len(names) == len(items) else []


def _same_solutions(mine: Sequence[Reading], gold: Sequence[Reading], rounding: Rounding) -> bool:
    """`x_1 = 2, x_2 = 3` and `x = 2 or x = 3`: numbers that only count the solutions."""
    counted, wanted = _without_numbers(mine), _without_numbers(gold)
    if (counted is None) == (wanted is None):
        return False
    return _same_items(counted or mine, list(wanted or gold), rounding)


def _without_numbers(items: Sequence[Reading]) -> list[Reading] | None:
    """`x_1 = 2, x_2 = 3` as `x = 2, x = 3`; None where one variable is not so numbered."""
    names: list[str] = []
    for item in items:
        match item.labels:
            case (Label("variable", name),) if name.count("_") == 1:
                names.append(name)
            case _:
                return None
    letters = {name.split("_")[0] for name in names}
    numbers = sorted(name.split("_")[1] for name in names)
    if len(letters) != 1 or numbers != [str(n) for n in range(1, len(names) + 1)]:
        return None
    return [replace(item, labels=(Label("variable", min(letters)),)) for item in items]


def _same_tuple(mine: Sequence[Reading], gold: Sequence[Reading], rounding: Rounding) -> bool:
    return len(mine) == len(gold) and all(
        same_answer(x, y, rounding) for x, y in zip(mine, gold, strict=True)
    )


def _same_items(mine: Sequence[Reading], gold: list[Reading], rounding: Rounding) -> bool:
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


def _as_equation(answer: Reading) -> Expression | None:
    match answer:
        case Reading((Equation() as equation,), ()):
            return _moved(equation)
        # `x = 24` is an answer, and `2x = 48` is not yet one: only with variables on both sides.
        case Reading((Quantity(expression),), (Label("variable", name),)) if variables(expression):
            return Binary("-", Variable(name), expression)
        # AB/CD = EF/GH: a segment is the product of its letters to the parser.
        case Reading((Quantity(expression),), (Label("ratio", name),)) if variables(expression):
            above, _, below = name.partition(":")
            ratio = Binary("/", _letters(above), _letters(below))
            return Binary("-", ratio, expression) if below.isalpha() else None
        case _:
            return None


def _letters(name: str) -> Expression:
    """What the parser makes of `AB`."""
    first, *others = (Variable(letter) for letter in name)
    return reduce(partial(Binary, "*"), others, first)
