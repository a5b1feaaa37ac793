"""Ways to say an answer that the grader does not read, or reads only as a whole."""

import re
from collections.abc import Iterator, Sequence

from visual_r1.grading.forms import Group, Word
from visual_r1.rewards.scan_text import Lexeme, lexemes
from visual_r1.rewards.targets import Checks, Span, Target

# Turns of phrase that are calculations: `#` is a value, and what it comes to.
_TURNS: tuple[tuple[str, str], ...] = (
    ("(?:twice|double) (?:of )?#", "2 * {0}"),
    ("(?:thrice|triple) (?:of )?#", "3 * {0}"),
    ("half (?:of )?#", "{0} / 2"),
    ("third (?:of )?#", "{0} / 3"),
    ("quarter (?:of )?#", "{0} / 4"),
    ("# doubled", "2 * {0}"),
    ("# tripled", "3 * {0}"),
    ("# halved", "{0} / 2"),
    ("# squared", "{0} ^ 2"),
    ("# of #", "{0} * {1}"),
    ("# / # of #", "{0} / {1} * {2}"),
    ("# (?:%|percent) of #", "{0} * {1} / 100"),
    ("sum (?:of )?# (?:and|,) #", "{0} + {1}"),
    ("product (?:of )?# (?:and|by|,) #", "{0} * {1}"),
    ("difference (?:of |between )?# (?:and|,) #", "{0} - {1}"),
    ("difference (?:of |between )?# (?:and|,) #", "{1} - {0}"),
    ("quotient (?:of )?# (?:and|by|,) #", "{0} / {1}"),
    ("# (?:more|greater|larger|bigger|higher) than #", "{1} + {0}"),
    ("# (?:less|fewer|smaller|lower) than #", "{1} - {0}"),
    ("# (?:short of|below|before|under) #", "{1} - {0}"),
    ("# (?:above|after|past|over|beyond) #", "{1} + {0}"),
    ("add # (?:to|and) #", "{0} + {1}"),
    ("# (?:added|add) (?:to )?#", "{0} + {1}"),
    ("(?:subtract|take|deduct) # (?:away )?from #", "{1} - {0}"),
    ("# (?:subtracted|taken|deducted) (?:away )?from #", "{1} - {0}"),
    ("# (?:subtract|take away|take) #", "{0} - {1}"),
    ("divide # by #", "{0} / {1}"),
    ("multiply # (?:by|with|and) #", "{0} * {1}"),
    ("root of #", "\\sqrt{{{0}}}"),
    ("supplement (?:of |to )?#", "180 - {0}"),
    ("complement (?:of |to )?#", "90 - {0}"),
    ("# tens?(?: and)? #", "10 * {0} + {1}"),
)
_COMPILED = tuple(
    (re.compile(r"(?<!\S)" + phrase.replace("#", r"#(\d+)") + r"(?!\S)"), formula)
    for phrase, formula in _TURNS
)
_JOINTS = frozenset(
    ("-", "_", "'", '"', "*", "{", "}", "\\,", "\\!", "\\;", "\\:", "\\ ", "~", "`",
     "|", ";", "&", "…", "then", "\\text", "\\textbf", "\\underline", "\\overline", "\\mathbf",
     "\\mathrm", "\\\\")
)  # fmt: skip
_TENS = frozenset(range(20, 100, 10))
_ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
    (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def digits_apart(tokens: Sequence[Lexeme], one: Target) -> Iterator[Span]:
    """`6 2`, `six two`, `6-2`, `12 point 5`: numbers side by side that together spell the value."""
    wanted = one.digits
    if len(wanted) < 2:
        return
    for first, token in enumerate(tokens):
        if token.number is None or not wanted.startswith(_plain(token)) or not _plain(token):
            continue
        spelled, parts = _plain(token), 1
        for after in tokens[first + 1 : first + 3 * len(wanted)]:
            if after.number is not None:
                spelled, parts = spelled + _plain(after), parts + 1
            elif after.text.lower() == "point" or (after.text == "." and "." in wanted):
                spelled += "."
            elif after.text not in _JOINTS and not (after.text == "," and after.start):
                break
            if not wanted.startswith(spelled):
                break
            if spelled == wanted and parts > 1:
                yield token.start, after.end
                break


def tens_apart(tokens: Sequence[Lexeme], one: Target) -> Iterator[Span]:
    """`sixty and two`, `sixty, two`, `Sixty. Two`: tens in words, and ones behind them."""
    for first, token in enumerate(tokens):
        if token.number not in _TENS or not token.text[0].isalpha():
            continue
        for after in tokens[first + 1 : first + 4]:
            if after.number is not None:
                if 0 < after.number < 10 and token.number + after.number == one.value:
                    yield token.start, after.end
                break
            if after.text not in _JOINTS and after.text.lower() not in ("and", ",", "."):
                break


def _plain(token: Lexeme) -> str:
    return token.math if token.math.isdigit() else ""


def roman(tokens: Sequence[Lexeme], one: Target) -> Iterator[Span]:
    """`LXII`, `lxii` and `Lxii`; single letters are names of points."""
    if not one.digits.isdigit() or not 1 < int(one.digits) < 4000:
        return
    left, wanted = int(one.digits), ""
    for size, letters in _ROMAN:
        wanted += letters * (left // size)
        left %= size
    if len(wanted) < 2:
        return
    for token in tokens:
        if token.text in (wanted, wanted.lower(), wanted.capitalize()):
            yield token.start, token.end


def binary(tokens: Sequence[Lexeme], one: Target) -> Iterator[Span]:
    """`111110`: from five digits on, for shorter ones (`110`) are what a figure may well say."""
    for token in tokens:
        bits = token.text
        if len(bits) >= 5 and set(bits) <= {"0", "1"} and int(bits, 2) == one.value:
            yield token.start, token.end


def in_words(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """`twice 31`, `31 doubled`, `half of 124`, `the sum of 60 and 2`, `one more than 61`."""
    pieces: list[str] = []
    starts: dict[int, int] = {}  # where a token begins in the text put together, and which it is
    length = 0
    for index, token in enumerate(tokens):
        if token.kind == "silent" or token.math == "°":
            continue
        starts[length] = index
        pieces.append(f"#{index}" if token.kind == "value" else token.text.lower())
        length += len(pieces[-1]) + 1
    text = " ".join(pieces)
    for phrase, formula in _COMPILED:
        for found in phrase.finditer(text):
            values = [tokens[int(index)] for index in found.groups()]
            if checks.says(formula.format(*(value.math for value in values)), one):
                first = tokens[starts[found.start()]]
                yield first.start, max(value.end for value in values)


def phrases(tokens: Sequence[Lexeme], one: Target) -> Iterator[Span]:
    """The target's own words, whatever stands between them; in capitals only as they are."""
    words = [token.text for token in lexemes(one.text) if not token.text.isspace()]
    if not words:
        return
    exact = one.text.strip().isupper()
    wanted = words if exact else [word.casefold() for word in words]
    texts = [token.text if exact else token.text.casefold() for token in tokens]
    for start in range(len(texts) - len(wanted) + 1):
        if texts[start] == wanted[0] and texts[start : start + len(wanted)] == wanted:
            yield tokens[start].start, tokens[start + len(wanted) - 1].end


def windows(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """Stretches about as long as the target that the grader reads as equal to it."""
    if not one.readings or all(isinstance(f, Word) for r in one.readings for f in r.chain):
        return
    own = lexemes(one.text)
    words = {token.text.lower() for token in own} | {"and", "or", "to"}
    numbers = sum(token.number is not None for token in own)
    grouped = any(isinstance(form, Group) for r in one.readings for form in r.chain)
    for first in range(len(tokens)):
        seen = 0
        for last in range(first, min(len(tokens), first + len(own) + 4)):
            token = tokens[last]
            seen += token.number is not None
            if (token.text.isalpha() and token.text.lower() not in words) or seen > numbers:
                break
            if seen == numbers and last > first and token.text not in (",", ";", "."):
                text = " ".join(t.math or t.text for t in tokens[first : last + 1])
                if checks.says(text, one) or (grouped and checks.says(f"({text})", one)):
                    yield tokens[first].start, token.end
