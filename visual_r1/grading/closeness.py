"""When two numbers, and two expressions in variables, are the same.

    |a − b| <= 1e-9 · max(|a|, |b|)      where a root, π or a function is in one of them
    a = b                                where both are fractions

Expressions are compared at points drawn from a hash of their variables' names.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from math import trunc
from typing import Literal as OneOf

from visual_r1.grading.expressions import (
    MAX_BITS,
    NOISE,
    Binary,
    Expression,
    Literal,
    Number,
    Root,
    Undefined,
    children,
    difference,
    evaluate,
    magnitude,
    product,
    quotient,
    to_decimal,
    variables,
)
from visual_r1.grading.spelling import Unreadable
from visual_r1.hashing import stable_seed

Rounding = OneOf["exact", "rounded"]

# Irrational values are 50-digit decimals here; a textbook's may have been printed by a float.
RELATIVE = Decimal("1e-9")
# A decimal this long is taken to stand for the value it was cut from: 0.333333 for 1/3.
LONG_DECIMAL = 6
POINTS = 4
# Farther points, by how far and to which side: `x` is not `|x|`, nor is `20 - x` `|x - 20|`.
_MOST_DIGITS = 2000  # before the point, or zeros behind it
_FARTHER = (-1, 37, -37, 1009, -1009)


def same_value(left: Number, right: Number) -> bool:
    """Exactly, where both are fractions; else to 1e-9 of the larger."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    gap = to_decimal(magnitude(difference(left, right)))
    size = max(to_decimal(magnitude(left)), to_decimal(magnitude(right)))
    return gap <= to_decimal(product(RELATIVE, size)) or (gap < NOISE and 0 in (left, right))


def same_number(
    left: tuple[Number, int | None], right: tuple[Number, int | None], rounding: Rounding
) -> bool:
    """Values, each with the decimals of its literal.

    Under "rounded", a literal with k >= 1 decimals also stands for whatever rounds to it, save 0:
    in 0.00 no digit says how much it was.
    """
    if same_value(left[0], right[0]):
        return True
    for (literal, decimals), (other, other_decimals) in ((left, right), (right, left)):
        if decimals is None or not isinstance(literal, Fraction):
            continue
        of_its_own = rounding == "rounded" and decimals >= 1 and literal != 0
        if of_its_own and rounded(other, decimals) == literal:
            return True
        if decimals >= LONG_DECIMAL and other_decimals is None:
            long = abs(literal) * 10**decimals >= 10 ** (LONG_DECIMAL - 1)
            scale = 10**decimals
            cut = Fraction(trunc(Fraction(other) * scale), scale)
            if long and literal in (rounded(other, decimals), cut):
                return True
    return False


def rounded(value: Number, decimals: int) -> Fraction:
    """`value` to that many decimals, halves away from zero, as in school."""
    exact = Fraction(value)
    shifted = abs(exact) * 10**decimals
    whole = (2 * shifted.numerator + shifted.denominator) // (2 * shifted.denominator)
    return Fraction(whole if exact >= 0 else -whole, 10**decimals)


def _values_everywhere(left: Expression, right: Expression) -> Iterator[tuple[Number, Number]]:
    """Both values at `POINTS` points where both are defined. Raises `Unreadable` without enough."""
    names = sorted(variables(left) | variables(right))
    found = 0
    for index in range(4 * POINTS):
        try:
            at = _point(names, index)
            pair = evaluate(left, at), evaluate(right, at)
        except Undefined:
            continue
        yield pair
        found += 1
        if found == POINTS:
            break
    # Under a root a textbook's letters are lengths: √(2a²) is a√2 there.
    below_0 = not (_has_root(left) or _has_root(right))
    for point in _farther_points(names, below_0=below_0):
        # Out there a power is soon beyond the limits; then this point says nothing.
        with suppress(Undefined, Unreadable):
            pair = evaluate(left, point), evaluate(right, point)
            if all(map(_can_be_compared, pair)):
                yield pair
                found += 1
    if found < POINTS:
        raise Unreadable("the expressions are not both defined at enough points")


def _point(names: Sequence[str], index: int) -> dict[str, Fraction]:
    """Positive values of a few bits, the same for the same names."""
    return {name: Fraction(stable_seed("grading", name, index) % 9973 + 11, 1009) for name in names}


def _has_root(expression: Expression) -> bool:
    """Whether a variable stands under a root, or has a power that may be one."""
    match expression:
        case Root(inside):
            return bool(variables(inside))
        case Binary("^", base, exponent) if variables(base):
            return not isinstance(exponent, Literal) or exponent.value.denominator > 1
        case _:
            return any(map(_has_root, children(expression)))


def _farther_points(names: Sequence[str], *, below_0: bool) -> Iterator[dict[str, Fraction]]:
    """Points far out and below 0, for all of `names` together and for each of them alone."""
    for index, factor in enumerate(_FARTHER):
        if factor < 0 and not below_0:
            continue
        near = _point(names, 4 * POINTS + index)
        yield {name: factor * value for name, value in near.items()}
        if len(names) > 1:
            for one in names:
                yield near | {one: factor * near[one]}


def _can_be_compared(value: Number) -> bool:
    """Whether differences and quotients of two such values, and of these, are within the limits."""
    if isinstance(value, Decimal):
        return abs(value.adjusted()) < _MOST_DIGITS
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    return bits <= MAX_BITS // 5


def same_everywhere(left: Expression, right: Expression) -> bool:
    """Whether two expressions in the same variables have the same values."""
    return left == right or all(same_value(x, y) for x, y in _values_everywhere(left, right))


def proportional_everywhere(left: Expression, right: Expression, *, positive: bool = False) -> bool:
    """Whether left / right is one number other than 0: then left = 0 says what right = 0 says.

    With `positive` one above 0: then left < 0 says what right < 0 says.
    """
    if variables(left) != variables(right):
        return False
    pairs = list(_values_everywhere(left, right))
    if positive and any((x < 0) != (y < 0) for x, y in pairs):
        return False
    return _one_quotient(pairs)


def proportional(left: Sequence[Expression], right: Sequence[Expression]) -> bool:
    """Whether the terms of two ratios are in the same proportion; a term 0 only in its own."""
    if len(left) != len(right):
        return False
    names = {frozenset(variables(term)) for term in (*left, *right)}
    if names == {frozenset()}:
        try:
            pairs = [(evaluate(x), evaluate(y)) for x, y in zip(left, right, strict=True)]
            # 6 : 0 is no multiple of 3 : 0: what has a term 0 is equal to itself alone.
            if any(to_decimal(magnitude(value)) < NOISE for pair in pairs for value in pair):
                return all(same_value(x, y) for x, y in pairs)
            return _one_quotient(pairs)
        except Undefined:
            return False
    ties = zip(left[1:], right[1:], strict=True)
    return all(same_everywhere(Binary("*", left[0], y), Binary("*", right[0], x)) for x, y in ties)


def _one_quotient(pairs: Sequence[tuple[Number, Number]]) -> bool:
    """Quotients, not products: what is tiny on one side is not lost in the tolerance.

    Where one side is 0 the other must be; 0 everywhere is in no proportion to anything.
    """
    nothing = [tuple(to_decimal(magnitude(value)) < NOISE for value in pair) for pair in pairs]
    if any(x != y for x, y in nothing):
        return False
    quotients = [
        quotient(x, y) for (x, y), (zero, _) in zip(pairs, nothing, strict=True) if not zero
    ]
    return bool(quotients) and all(same_value(quotients[0], other) for other in quotients[1:])
