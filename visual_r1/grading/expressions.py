"""Expressions as trees, and their values.

A value is a `Fraction` as long as everything is rational, so that 15/2, 7.5 and 30/4 are compared
exactly; a root, π or a function turns it into a 50-digit `Decimal`. Sizes are bounded at every
operation: nothing here can take long, whatever the text was.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from fractions import Fraction
from math import comb, factorial, isqrt
from typing import Any, cast

import mpmath  # pyright: ignore[reportMissingTypeStubs]

from visual_r1.grading.spelling import Unreadable

Number = Fraction | Decimal

MAX_BITS = 4096
MAX_EXPONENT = 100
# Of a whole power: what it comes to is bounded by `MAX_BITS` as well.
MAX_POWER = 4096
MAX_CHOICES = 1000
MAX_ANGLE = 10**6

_DIGITS = 50
_CONTEXT = Context(
    prec=_DIGITS, Emax=9999, Emin=-9999, traps=[InvalidOperation, DivisionByZero, Overflow]
)
# A context of our own: the precision that other libraries set on mpmath's is not ours.
_MPMATH: Any = cast(Any, mpmath).MPContext()
_MPMATH.dps = _DIGITS + 10
# Its functions raise the precision of the whole context while they run.
_MPMATH_LOCK = threading.Lock()
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
E = Decimal("2.71828182845904523536028747135266249775724709369995957496696763")
# What is left at 50 digits of a value that should be 0, and how large what should be infinite is:
# the digits of π end, so sin π is not quite 0 and tan π/2 is a number.
NOISE = Decimal("1e-40")
_POLE = Decimal("1e20")


@dataclass(frozen=True, slots=True)
class Literal:
    """A number as written; `decimals` counts its digits after the point, None without a point."""

    value: Fraction
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class Variable:
    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """π, or Euler's number."""

    value: Decimal = PI


@dataclass(frozen=True, slots=True)
class Binary:
    """`operator` is one of + - * / ^ choose (a binomial coefficient)."""

    operator: str
    left: "Expression"
    right: "Expression"


@dataclass(frozen=True, slots=True)
class Negative:
    inside: "Expression"


@dataclass(frozen=True, slots=True)
class Root:
    inside: "Expression"
    index: int = 2


@dataclass(frozen=True, slots=True)
class Call:
    """A function: abs, factorial, sin, cos, tan, csc, sec, cot, asin, acos, atan, ln, log."""

    name: str
    inside: "Expression"


@dataclass(frozen=True, slots=True)
class Degree:
    """`inside` marked with a degree sign: the number itself, except inside a function."""

    inside: "Expression"


Expression = Literal | Variable | Constant | Binary | Negative | Root | Call | Degree


class Undefined(Exception):
    """The expression has no real value here: a division by zero, the root of a negative number."""


def children(expression: Expression) -> tuple[Expression, ...]:
    """The direct parts of an expression."""
    match expression:
        case Binary(_, left, right):
            return left, right
        case Negative(inside) | Root(inside, _) | Call(_, inside) | Degree(inside):
            return (inside,)
        case _:
            return ()


def contains(expression: Expression, kind: type) -> bool:
    """Whether a node of type `kind` is anywhere in the tree."""
    return isinstance(expression, kind) or any(contains(c, kind) for c in children(expression))


def variables(expression: Expression) -> frozenset[str]:
    """The names of all variables."""
    if isinstance(expression, Variable):
        return frozenset((expression.name,))
    return frozenset[str]().union(*(variables(child) for child in children(expression)))


def with_eulers_number(expression: Expression) -> Expression:
    """The same with Euler's number for the letter e."""
    match expression:
        case Variable("e"):
            return Constant(E)
        case Binary(operator, left, right):
            return Binary(operator, with_eulers_number(left), with_eulers_number(right))
        case Negative(inside):
            return Negative(with_eulers_number(inside))
        case Root(inside, index):
            return Root(with_eulers_number(inside), index)
        case Call(name, inside):
            return Call(name, with_eulers_number(inside))
        case Degree(inside):
            return Degree(with_eulers_number(inside))
        case _:
            return expression


def evaluate(expression: Expression, at: Mapping[str, Fraction] | None = None) -> Number:
    """The value of `expression`, its variables taken from `at`.

    Raises:
        Undefined: no real value there.
        Unreadable: the value is beyond the limits of size.
    """
    try:
        return _evaluate(expression, at or {})
    except (InvalidOperation, DivisionByZero, ZeroDivisionError) as error:
        raise Undefined("division by zero or no real value") from error
    except Overflow as error:
        raise Unreadable("the value is too large") from error


def to_decimal(value: Number) -> Decimal:
    """A 50-digit decimal of `value`."""
    if isinstance(value, Decimal):
        return value
    return _CONTEXT.divide(Decimal(value.numerator), Decimal(value.denominator))


def difference(left: Number, right: Number) -> Number:
    """left − right, exact where both are fractions. Raises `Unreadable` where it is too large."""
    return _plus(left, negated(right))


def negated(value: Number) -> Number:
    """−value, without rounding."""
    return value.copy_negate() if isinstance(value, Decimal) else -value


def magnitude(value: Number) -> Number:
    """|value|, without rounding."""
    return value.copy_abs() if isinstance(value, Decimal) else abs(value)


def product(left: Number, right: Number) -> Number:
    """left · right, exact where both are fractions. Raises `Unreadable` where it is too large."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left * right)
    return _in_digits(_CONTEXT.multiply, left, right)


def quotient(left: Number, right: Number) -> Number:
    """left / right, exact where both are fractions.

    Raises:
        Undefined: right is 0.
        Unreadable: it is too large.
    """
    if right == 0:
        raise Undefined("division by zero")
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left / right)
    return _in_digits(_CONTEXT.divide, left, right)


def _plus(left: Number, right: Number) -> Number:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left + right)
    return _in_digits(_CONTEXT.add, left, right)


def _in_digits(
    operation: Callable[[Decimal, Decimal], Decimal], left: Number, right: Number
) -> Decimal:
    try:
        return operation(to_decimal(left), to_decimal(right))
    except Overflow as error:
        raise Unreadable("the value is too large") from error


def _evaluate(expression: Expression, at: Mapping[str, Fraction]) -> Number:
    match expression:
        case Literal(value, _):
            return value
        case Variable(name):
            return at[name]
        case Constant(value):
            return value
        case Negative(inside):
            return negated(_evaluate(inside, at))
        case Degree(inside):
            return _evaluate(inside, at)
        case Root(inside, index):
            return _root(_evaluate(inside, at), index)
        case Call(name, inside):
            return _call(name, inside, at)
        case Binary(operator, left, right):
            return _OPERATIONS[operator](_evaluate(left, at), _evaluate(right, at))


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(exponent, Decimal):
        exponent = Fraction(exponent) if exponent == exponent.to_integral_value() else exponent
    whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    most = MAX_POWER if whole else MAX_EXPONENT
    if magnitude(exponent) > most:
        raise Unreadable(f"an exponent beyond {most}")
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _integer_power(base, exponent.numerator)
    if base < 0:
        raise Undefined("a fractional power of a negative number")
    if base == 0:
        if exponent < 0:
            raise Undefined("division by zero")
        return Fraction(0)
    if isinstance(exponent, Fraction) and exponent.denominator in (2, 3, 4):
        return _integer_power(_root(base, exponent.denominator), exponent.numerator)
    return _CONTEXT.power(to_decimal(base), to_decimal(exponent))


def _choose(whole: Number, part: Number) -> Number:
    for value in (whole, part):
        if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
            raise Undefined("a binomial coefficient of what is not a whole number")
        if value > MAX_CHOICES:
            raise Unreadable(f"a binomial coefficient beyond {MAX_CHOICES}")
    return Fraction(comb(int(whole), int(part)))


def _integer_power(base: Number, exponent: int) -> Number:
    if base == 0 and exponent <= 0:
        raise Undefined("0 to a power that is not positive")
    if isinstance(base, Decimal):
        return _CONTEXT.power(base, Decimal(exponent))
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_BITS:
        raise Unreadable("the value is too large")
    return base**exponent


def _root(value: Number, index: int) -> Number:
    if value < 0:
        if index % 2:
            return negated(_root(negated(value), index))
        raise Undefined("the root of a negative number")
    if isinstance(value, Fraction):
        top, low = _whole_root(value.numerator, index), _whole_root(value.denominator, index)
        if top is not None and low is not None:
            return Fraction(top, low)
    if index == 2:
        return _CONTEXT.sqrt(to_decimal(value))
    if value == 0:
        return Fraction(0)
    return _CONTEXT.power(to_decimal(value), _CONTEXT.divide(Decimal(1), Decimal(index)))


def _whole_root(value: int, index: int) -> int | None:
    """The exact root of a whole number, None where it has none."""
    if index == 2:
        root = isqrt(value)
    elif value.bit_length() <= 50 * index:
        root = round(value ** (1 / index)) if value.bit_length() < 1000 else 0
    else:
        return None
    return root if root**index == value else None


def _call(name: str, inside: Expression, at: Mapping[str, Fraction]) -> Number:
    value = _evaluate(inside, at)
    match name:
        case "abs":
            return magnitude(value)
        case "factorial":
            if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
                raise Undefined("the factorial of what is not a whole number")
            if value > MAX_EXPONENT:
                raise Unreadable(f"a factorial beyond {MAX_EXPONENT}")
            return Fraction(factorial(value.numerator))
        case "ln" | "log":
            if value <= 0:
                raise Undefined("the logarithm of a number that is not positive")
            return (_CONTEXT.ln if name == "ln" else _CONTEXT.log10)(to_decimal(value))
        case "asin" | "acos" | "atan":
            if name != "atan" and magnitude(value) > 1:
                raise Undefined("the angle of a sine or cosine beyond 1")
            with _MPMATH_LOCK:
                found = getattr(_MPMATH, name)(_MPMATH.mpf(str(to_decimal(value))))
                return _to_decimal(_MPMATH.degrees(found))
        case _:
            # Bare numbers are degrees, as in school geometry; what holds π is radians.
            degrees = contains(inside, Degree) or not contains(inside, Constant)
            return _ratio_of(name, value, degrees=degrees)


def _ratio_of(name: str, value: Number, *, degrees: bool) -> Decimal:
    """sin, cos, tan, cot, sec or csc of an angle."""
    if magnitude(value) > MAX_ANGLE:
        raise Unreadable("an angle beyond 10^6")
    with _MPMATH_LOCK:
        angle = _MPMATH.mpf(str(to_decimal(value)))
        found = _to_decimal(getattr(_MPMATH, name)(_MPMATH.radians(angle) if degrees else angle))
    if found.copy_abs() > _POLE:
        raise Undefined("a pole")
    return Decimal(0) if found.copy_abs() < NOISE else found


def _to_decimal(value: Any) -> Decimal:
    """A number of mpmath's, to 50 digits."""
    return Decimal(_MPMATH.nstr(value, _DIGITS))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise Unreadable("the value is too large")
    return value


_OPERATIONS: Mapping[str, Callable[[Number, Number], Number]] = {
    "+": _plus,
    "-": difference,
    "*": product,
    "/": quotient,
    "^": _power,
    "choose": _choose,
}
