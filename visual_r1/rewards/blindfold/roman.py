"""Roman numbers, as the digits that they are."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from visual_r1.rewards.blindfold.scan_text import Lexeme

_ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
    (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def with_roman_numbers(tokens: Sequence[Lexeme]) -> list[Lexeme]:
    """The tokens with Roman digits as the numbers that they are; single ones from I to L alone."""
    out: list[Lexeme] = []
    for token in tokens:
        value = roman_value(token.text) if token.role == "other" else 0
        if value and (len(token.text) > 1 or value <= 50):
            number = Fraction(value)
            token = replace(token, role="value", math=str(value), number=number)
        out.append(token)
    return out


def roman_value(text: str) -> int:
    """`LXII` as 62; 0 for what is no Roman number as it is written."""
    if not text or len(text) > 15 or not set(text) <= set("MDCLXVI"):
        return 0
    value, rest = 0, text
    for size, letters in _ROMAN:
        while rest.startswith(letters):
            value, rest = value + size, rest[len(letters) :]
    return value if roman_of(value) == text else 0


def roman_of(value: int) -> str:
    """62 as `LXII`."""
    text = ""
    for size, letters in _ROMAN:
        text += letters * (value // size)
        value %= size
    return text
