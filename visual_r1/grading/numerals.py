"""Numbers in words: `twelve`, `one hundred and five`, `three fourths`."""

from collections.abc import Sequence
from fractions import Fraction

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {
    **{word: value for value, word in enumerate(_ONES)},
    **{word: 10 * value for value, word in enumerate(_TENS, start=2)},
}
# What whole numbers are made of; "and" besides, between two of them.
NUMBER_WORDS = (*_SMALL, "hundred", "thousand")
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "fourth": 4, "fourths": 4, "quarter": 4,
    "quarters": 4, "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8,
    "tenth": 10, "tenths": 10,
}  # fmt: skip


def number_words(words: Sequence[str]) -> Fraction | None:
    """`twelve`, `thirty five`, `one hundred and five`, `three fourths`; None for other words."""
    if not words or len(words) > 10:
        return None
    if words[-1] in _PARTS and len(words) <= 2:
        top = 1 if len(words) == 1 or words[0] in ("a", "one") else _SMALL.get(words[0])
        return None if not top else Fraction(top, _PARTS[words[-1]])
    total = current = 0
    previous = ""
    for word in words:
        if word in _SMALL:
            tens_then_ones = previous in _TENS and 0 < _SMALL[word] < 10
            if previous and not tens_then_ones and previous not in ("and", "hundred", "thousand"):
                return None
            current += _SMALL[word]
        elif word == "hundred" and 0 < current < 10:
            current *= 100
        elif word == "thousand" and 0 < current < 1000 and not total:
            total, current = current * 1000, 0
        elif word != "and" or previous not in ("hundred", "thousand"):
            return None
        previous = word
    return None if previous == "and" else Fraction(total + current)


def is_number_word(word: str) -> bool:
    """Whether `word` is part of a number in words."""
    return word in NUMBER_WORDS or word in _PARTS
