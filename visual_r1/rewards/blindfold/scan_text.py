"""A scan as a list of tokens that know what they are in a calculation and where they stand.

Spelling is levelled first, position by position: full-width, circled and other digits become
ASCII digits, invisible and combining characters go, superscripts become exponents. Number words
(`sixty-two`, `one hundred and seven`) become one token with its value, `plus` and `divided by`
become signs.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from visual_r1.grading.forms import read_unit
from visual_r1.grading.labels import number_words
from visual_r1.grading.spelling import Token

Kind = Literal[
    "value", "operator", "open", "close", "function", "after", "equals", "silent", "other"
]

_SUPERSCRIPTS = {c: str(i) for i, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {"⁻": "-", "⁺": "+"}
_VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"
_LEXEME = re.compile(
    r"\s+"
    r"|(?P<hex>0[xX][0-9a-fA-F]{1,16}\b|0[bB][01]{1,64}\b|0[oO][0-7]{1,24}\b)"
    r"|(?P<number>(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?![\w.]))?"
    r"|\.\d+)"
    r"|(?P<equals>=>|->|==|[=≈≃≅≐→⇒⟹⟶⟾])"
    r"|(?P<degree>\^\s*\{?\s*(?:\\circ(?![A-Za-z])|°)\s*\}?)"
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
_OPEN, _CLOSE = ("(", "{", "["), (")", "}", "]")
_FUNCTIONS = {
    **{f"\\{name}": f"\\{name}" for name in ("frac", "dfrac", "tfrac", "sqrt")},
    "\\cfrac": "\\frac",
    **{name: f"\\{name}" for name in ("sqrt", "sin", "cos", "tan")},
    **{f"\\{name}": f"\\{name}" for name in ("sin", "cos", "tan")},
    "√": "√", "∛": "∛",
}  # fmt: skip
_AFTER = {"°": "°", "º": "°", "%": "%", "\\%": "%", "\\degree": "°"}
_CONSTANTS = {"π": "\\pi", "\\pi": "\\pi", "pi": "\\pi"}
_EQUALS = frozenset(
    ("is", "equals", "equal", "gives", "makes", "yields", "are", "becomes", "leaves", "makes",
     "\\approx", "\\Rightarrow", "\\rightarrow", "\\to", "\\implies", "\\simeq")
)  # fmt: skip
# Layout, and words that only join: they stand in a calculation without being part of it.
_NOTHING = frozenset(
    ("$", "\\left", "\\right", "\\,", "\\;", "\\:", "\\!", "\\ ", "\\$", "\\(", "\\)", "\\[", "\\]",
     "\\displaystyle", "\\quad", "~", "`")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A token from `start` to `end` of the original text.

    `text` is what it says, levelled; `math` what the grader should read for it ("" for nothing,
    as with layout); `number` the value of a number, `decimals` its digits after the point.
    """

    kind: Kind
    text: str
    math: str
    start: int
    end: int
    number: Fraction | None = None
    decimals: int | None = None


def lexemes(text: str) -> list[Lexeme]:
    """The tokens of `text` without its white space; linear in its length."""
    level, places = _levelled(text)
    found: list[Lexeme] = []
    for match in _LEXEME.finditer(level):
        if match.lastgroup is None:
            continue
        start, end = places[match.start()], places[match.end() - 1] + 1
        found.append(_lexeme(match.lastgroup, match[0], start, end))
    return _with_units(_with_signs(_with_number_words(found)))


def levelled(text: str) -> str:
    """`text` in plain characters, for searching."""
    return _levelled(text)[0]


def _levelled(text: str) -> tuple[str, list[int]]:
    """The levelled text and, for each of its characters, where in `text` it came from."""
    out: list[str] = []
    places: list[int] = []
    raised = False
    for index, character in enumerate(text):
        if character.isascii():
            plain = character
        elif unicodedata.category(character) in ("Cf", "Mn", "Me", "Cc", "Co", "Cn"):
            continue
        elif character in _SUPERSCRIPTS:
            plain = ("" if raised else "^") + _SUPERSCRIPTS[character]
        elif character in _VULGAR:
            plain = character
        elif unicodedata.digit(character, None) is not None:
            plain = str(unicodedata.digit(character))
        else:
            plain = unicodedata.normalize("NFKC", character)
        raised = character in _SUPERSCRIPTS
        out.append(plain)
        places.extend([index] * len(plain))
    return "".join(out), places


def _lexeme(group: str, text: str, start: int, end: int) -> Lexeme:
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
    together = _RUN_TOGETHER.fullmatch(text.lower())
    value = number_words(together.groups()) if together else None
    if value is not None:
        return Lexeme("value", text, str(value), start, end, value)
    kind, math = _meaning(text, text.lower() if group == "word" else text)
    return Lexeme(kind, text, math, start, end)


def _meaning(text: str, key: str) -> tuple[Kind, str]:
    tables: tuple[tuple[Kind, dict[str, str]], ...] = (
        ("operator", _OPERATORS),
        ("function", _FUNCTIONS),
        ("after", _AFTER),
        ("value", _CONSTANTS),
    )
    for kind, table in tables:
        if key in table:
            return kind, table[key]
    if key in _OPEN:
        return "open", key
    if key in _CLOSE:
        return "close", key
    if key in _EQUALS:
        return "equals", "="
    if key in _NOTHING:
        return "silent", ""
    if key in _VULGAR and key:
        return "value", key
    return "other", text


def _with_number_words(found: Sequence[Lexeme]) -> list[Lexeme]:
    """Runs of number words as one value; the longest run that means a number."""
    out: list[Lexeme] = []
    at = 0
    while at < len(found):
        merged = _number_from(found, at)
        if merged is None:
            out.append(found[at])
            at += 1
        else:
            token, at = merged
            out.append(token)
    return out


_MOST_NUMBER_WORDS = 10
# Longer than any answer that can be graded; Python itself refuses to read more than 4,300.
_MOST_DIGITS = 400
_RUN_TOGETHER = re.compile(
    "(twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)"
    "(one|two|three|four|five|six|seven|eight|nine)"
)


def _number_from(found: Sequence[Lexeme], at: int) -> tuple[Lexeme, int] | None:
    first = found[at]
    if not first.text.isalpha() or not _is_number_word(first.text.lower()):
        return None
    words: list[str] = []
    best: tuple[Lexeme, int] | None = None
    for index in range(at, min(len(found), at + 2 * _MOST_NUMBER_WORDS)):
        token = found[index]
        if words and (token.text == "_" or (token.math == "-" and not token.text.isalpha())):
            continue
        if not token.text.isalpha() or len(words) == _MOST_NUMBER_WORDS:
            break
        words.append(token.text.lower())
        if words[0] == "a" and words[-1] in ("hundred", "thousand"):
            words[0] = "one"
        value = number_words(words)
        if value is not None and (len(words) > 1 or value.denominator == 1):
            text = " ".join(words)
            whole = str(value) if value.denominator == 1 else f"({value})"
            best = Lexeme("value", text, whole, first.start, token.end, value), index + 1
    return best


def _is_number_word(word: str) -> bool:
    value = number_words([word])
    return (value is not None and value.denominator == 1) or word == "a"


def _with_signs(found: Sequence[Lexeme]) -> list[Lexeme]:
    """`divided by` and `equal to` as one sign.

    `29 x 35` and `29 by 35` are left alone: dimensions, which a description may give.
    """
    out: list[Lexeme] = []
    for index, token in enumerate(found):
        before = found[index - 1] if index else None
        after = found[index + 1] if index + 1 < len(found) else None
        word = token.text.lower()
        if word in _WITH_BY and after is not None and after.text.lower() == "by":
            token = replace(token, kind="operator", math=_WITH_BY[word])
        elif before is not None and (
            (word == "by" and before.text.lower() in _WITH_BY)
            or (word == "to" and before.text.lower() == "equal")
        ):
            token = replace(token, kind="silent", math="")
        out.append(token)
    return out


def _with_units(found: Sequence[Lexeme]) -> list[Lexeme]:
    """Units behind a value, and degrees spelled as an exponent, take no part in a calculation."""
    out: list[Lexeme] = []
    for token in found:
        before = out[-1] if out else None
        if before is not None and token.kind == "other" and token.text.isalpha():
            stands = before.kind in ("value", "close", "after", "silent")
            if stands and read_unit([Token("word", token.text.lower(), True)]) is not None:
                token = replace(token, kind="silent", math="")
        out.append(token)
    return out


def runs(found: Sequence[Lexeme], also: frozenset[str] = frozenset()) -> Iterator[list[Lexeme]]:
    """The stretches of tokens that can be a calculation; `also` are names that may stand in it."""
    run: list[Lexeme] = []
    for token in found:
        if token.kind != "other" or token.text in also:
            run.append(token)
            continue
        if run:
            yield run
        run = []
    if run:
        yield run
