"""What kind of thing an answer is, as the grader reads it: for the dataset's card."""

from functools import lru_cache

from visual_r1.grading.expressions import (
    Binary,
    Constant,
    Expression,
    Literal,
    Negative,
    Root,
    contains,
    variables,
)
from visual_r1.grading.forms import Equation, Form, Group, Named, Quantity, Ratio, Relation, Word
from visual_r1.grading.reading import read
from visual_r1.grading.spelling import Unreadable


@lru_cache(maxsize=4096)
def answer_kind(answer: str) -> str:
    """integer, decimal, fraction, radical, with π, letter, word, expression, ... or other."""
    text = answer.strip().strip("().")
    if len(text) == 1 and text.isalpha():
        return "letter"
    try:
        readings = read(answer)
    except Unreadable:
        return "other"
    return _of_form(readings[0].chain[0])


def _of_form(form: Form) -> str:
    match form:
        case Quantity():
            return "percent" if form.percent else _of_expression(form.expression)
        case Ratio():
            return "ratio"
        case Word():
            return "word"
        case Group("list" | "set"):
            return "several values"
        case Group():
            return "pair or interval"
        case Relation():
            return "inequality"
        case Equation():
            return "equation"
        case Named():
            return "name"


def _of_expression(expression: Expression) -> str:
    if variables(expression):
        return "expression"
    if contains(expression, Root):
        return "radical"
    if contains(expression, Constant):
        return "with π"
    match expression:
        case Negative(inside):
            return _of_expression(inside)
        case Literal(value, None):
            return "integer" if value.denominator == 1 else "fraction"
        case Literal():
            return "decimal"
        case Binary("/", _, _):
            return "fraction"
        case _:
            return "expression"
