"""A scan as a list of tokens that know their role in a calculation and where they stand.

Spelling is levelled first (`levelling`). Number words (`sixty-two`, `one hundred and seven`), in
one word too, and ordinals beyond twelve become one token with their value, `plus` and `divided by`
become signs.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from visual_r1.grading.characters import VULGAR
from visual_r1.grading.numerals import number_words
from visual_r1.grading.spelling import Token
from visual_r1.grading.units import read_unit
from visual_r1.rewards.blindfold.levelling import in_number_words, levelled

Role = Literal[
    "value", "operator", "open", "close", "function", "after", "equals", "silent", "other"
]

_LEXEME = re.compile(
    r"\s+"
    r"|(?P<hex>0[xX][0-9a-fA-F]{1,16}\b|0[bB][01]{1,64}\b|0[oO][0-7]{1,24}\b)"
    r"|(?P<number>(?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|(?<![\d.])\.\d+)"
    r"(?:[eE][+-]?\d{1,3}(?!\w|\.\d))?)"
    r"|(?P<equals>=>|->|==|[=≈≃≅≐→⇒⟹⟶⟾])"
    r"|(?P<degree>\^\s*+(?:\{\s*+)?(?:\\circ(?![A-Za-z])|°)\s*\}?)"
    r"|(?P<command>\\(?:[A-Za-z]+|.))"
    r"|(?P<word>[^\W\d_]+)"
    r"|(?P<symbol>\*\*|.)",
    re.DOTALL,
)
_OPERATORS = {
    **{sign: sign for sign in "+-*/^"}, **dict.fromkeys("−–—‒‐‑", "-"),
    **dict.fromkeys("×·⋅∙•∗", "*"), **dict.fromkeys("÷⁄∕", "/"), "**": "^",
    "\\times": "*", "\\cdot": "*", "\\ast": "*", "\\div": "/", "plus": "+", "minus": "-",
    "times": "*", "less": "-", "over": "/",
}  # fmt: skip
_WITH_BY = {"divided": "/", "multiplied": "*"}
_FUNCTIONS = {
    **{f"\\{name}": f"\\{name}" for name in ("frac", "dfrac", "tfrac", "sqrt")},
    "\\cfrac": "\\frac",
    **{name: f"\\{name}" for name in ("sqrt", "sin", "cos", "tan")},
    **{f"\\{name}": f"\\{name}" for name in ("sin", "cos", "tan")},
    "√": "√", "∛": "∛",
}  # fmt: skip
_AFTER = {"°": "°", "º": "°", "%": "%", "\\%": "%", "\\degree": "°"}
_VALUES = {"π": "\\pi", "\\pi": "\\pi", "pi": "\\pi", **{sign: sign for sign in VULGAR}}
_EQUALS = (
    "is", "equals", "equal", "gives", "makes", "yields", "are", "becomes", "leaves",
    "\\approx", "\\Rightarrow", "\\rightarrow", "\\to", "\\implies", "\\simeq",
)  # fmt: skip
# Layout, and words that only join: they stand in a calculation without being part of it.
_LAYOUT = (
    "$", "\\left", "\\right", "\\,", "\\;", "\\:", "\\!", "\\ ", "\\$", "\\(", "\\)", "\\[", "\\]",
    "\\displaystyle", "\\quad", "~", "`",
)  # fmt: skip
# The role of a word or sign, and what the grader reads for it; an operator before all else.
_MEANINGS: dict[str, tuple[Role, str]] = {
    **dict.fromkeys(_LAYOUT, ("silent", "")),
    **dict.fromkeys(_EQUALS, ("equals", "=")),
    **{key: ("close", key) for key in (")", "}", "]")},
    **{key: ("open", key) for key in ("(", "{", "[")},
    **{key: ("value", math) for key, math in _VALUES.items()},
    **{key: ("after", math) for key, math in _AFTER.items()},
    **{key: ("function", math) for key, math in _FUNCTIONS.items()},
    **{key: ("operator", math) for key, math in _OPERATORS.items()},
}
_MOST_NUMBER_WORDS = 10
_MOST_PIECES = 12
# Longer than any answer that can be graded; Python itself refuses to read more than 4,300.
_MOST_DIGITS = 400
# Ordinals that are no place in a row: from the thirteenth on.
_ORDINALS = {
    "first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight",
    "ninth": "nine", "twelfth": "twelve",
}  # fmt: skip
_FIRST_ORDINAL = 13


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A token from `start` to `end` of the original text.

    `text` is what it says, levelled; `math` what the grader should read for it, "" for layout;
    `number` the value of a number, `decimals` its digits after the point.
    """

    role: Role
    text: str
    math: str
    start: int
    end: int
    number: Fraction | None = None
    decimals: int | None = None


def lexemes(text: str) -> list[Lexeme]:
    """The tokens of `text` without its white space; linear in its length."""
    level, places = levelled(text)
    found: list[Lexeme] = []
    for match in _LEXEME.finditer(level):
        if match.lastgroup is None:
            continue
        start, end = places[match.start()][0], places[match.end() - 1][1]
        found.append(_lexeme(match.lastgroup, match[0], start, end))
    # Runs of number words as one value: the longest run that means a number.
    counted: list[Lexeme] = []
    at = 0
    while at < len(found):
        ways = (_number_from(found, at), _in_pieces(found, at))
        token, at = max(
            (way for way in ways if way is not None),
            key=lambda way: way[1],
            default=(found[at], at + 1),
        )
        counted.append(token)
    return _in_context(counted)


def _in_pieces(found: Sequence[Lexeme], at: int) -> tuple[Lexeme, int] | None:
    """A number whose words were cut up (`six ty two`), and where the tokens go on behind it."""
    letters, best = "", None
    for index in range(at, min(len(found), at + _MOST_PIECES)):
        token = found[index]
        if not token.text.isalpha():
            if letters and token.math == "-":
                continue
            break
        letters += token.text.lower()
        if index > at and (words := in_number_words(letters)):
            value = number_words(words)
            if value is not None:
                number = Lexeme("value", letters, str(value), found[at].start, token.end, value)
                best = number, index + 1
    return best


def _lexeme(group: str, text: str, start: int, end: int) -> Lexeme:
    """The token that the group of this name of `_LEXEME` has matched."""
    if group == "hex":
        value = Fraction(int(text, 0))
        return Lexeme("value", text, str(value), start, end, value)
    if group == "number" and len(text) > _MOST_DIGITS:
        return Lexeme("other", text, text, start, end)
    if group == "number":
        plain = text.replace(",", "")
        mantissa = plain.lower().partition("e")[0]
        decimals = len(mantissa.partition(".")[2]) if "." in mantissa else None
        return Lexeme("value", text, plain, start, end, Fraction(plain), decimals)
    if group == "equals":
        return Lexeme("equals", text, "=", start, end)
    if group == "degree":
        return Lexeme("after", text, "°", start, end)
    together = in_number_words(text.lower())
    value = number_words(together) if len(together) > 1 else None
    if value is not None:
        return Lexeme("value", text, str(value), start, end, value)
    role, math = _MEANINGS.get(text.lower() if group == "word" else text, ("other", text))
    return Lexeme(role, text, math, start, end)


def _number_from(found: Sequence[Lexeme], at: int) -> tuple[Lexeme, int] | None:
    """The number whose words begin at `at`, and where the tokens go on behind it."""
    words: list[str] = []
    best: tuple[Lexeme, int] | None = None
    for index in range(at, min(len(found), at + 2 * _MOST_NUMBER_WORDS)):
        token = found[index]
        if words and (token.text == "_" or (token.math == "-" and not token.text.isalpha())):
            continue
        if words and words[-1] == "thousand" and token.text == ",":
            continue
        if not token.text.isalpha() or len(words) == _MOST_NUMBER_WORDS:
            break
        words.append(token.text.lower())
        if words[0] == "a" and words[-1] in ("hundred", "thousand"):
            words[0] = "one"
        ordinal = number_words([*words[:-1], _cardinal(words[-1])])
        if ordinal is not None and ordinal >= _FIRST_ORDINAL and words[-1] != _cardinal(words[-1]):
            math = str(ordinal)
            number = Lexeme("value", " ".join(words), math, found[at].start, token.end, ordinal)
            return number, index + 1
        value = number_words(words)
        is_whole = value is not None and value.denominator == 1
        if len(words) == 1 and not is_whole and words[0] != "a":
            break  # `half`, `third` and all other words begin no number
        if value is not None and (len(words) > 1 or is_whole):
            math = str(value) if is_whole else f"({value})"
            number = Lexeme("value", " ".join(words), math, found[at].start, token.end, value)
            best = number, index + 1
    return best


def _cardinal(word: str) -> str:
    """`fifth` as `five`, `sixtieth` as `sixty`; any other word as it is."""
    if word.endswith("ieth"):
        return word.removesuffix("ieth") + "y"
    return _ORDINALS.get(word) or word.removesuffix("th")


def _in_context(found: Sequence[Lexeme]) -> list[Lexeme]:
    """What depends on the tokens beside it: `divided by` and `equal to` as one sign, and units.

    `29 x 35` and `29 by 35` are left alone: dimensions, which a description may give. Units behind
    a value, and degrees spelled as an exponent, take no part in a calculation.
    """
    out: list[Lexeme] = []
    for index, token in enumerate(found):
        before = found[index - 1].text.lower() if index else ""
        after = found[index + 1].text.lower() if index + 1 < len(found) else ""
        word = token.text.lower()
        second_of_two = (word == "by" and before in _WITH_BY) or (
            word == "to" and before == "equal"
        )
        is_unit = (
            token.role == "other"
            and token.text.isalpha()
            and bool(out)
            and out[-1].role in ("value", "close", "after", "silent")
            and read_unit([Token("word", word, True)]) is not None
        )
        if word in _WITH_BY and after == "by":
            token = replace(token, role="operator", math=_WITH_BY[word])
        elif second_of_two or is_unit:
            token = replace(token, role="silent", math="")
        out.append(token)
    return out


def runs(found: Sequence[Lexeme], also: frozenset[str] = frozenset()) -> Iterator[list[Lexeme]]:
    """The stretches of tokens that can be a calculation; `also` are names that may stand in it."""
    run: list[Lexeme] = []
    for token in found:
        if token.role != "other" or token.text in also:
            run.append(token)
            continue
        if run:
            yield run
        run = []
    if run:
        yield run


def segments(run: Sequence[Lexeme]) -> Iterator[list[Lexeme]]:
    """The parts of a run between its equality signs, empty ones too."""
    part: list[Lexeme] = []
    for token in run:
        if token.role == "equals":
            yield part
            part = []
        else:
            part.append(token)
    yield part


def math_of(part: Iterable[Lexeme]) -> str:
    """What the grader reads for these tokens."""
    return " ".join(token.math for token in part if token.math)
