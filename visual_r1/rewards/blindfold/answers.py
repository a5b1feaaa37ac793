"""Where a text says an answer: in any spelling the grader reads, or as a calculation of it.

What is looked for, for an answer that is a number or an expression:

1. the value itself: `62`, `62.0`, `６２`, `sixty-two`, `0x3E`; its digits apart (`6 2`), its tens
   and ones apart (`sixty and two`), in Roman (`LXII`) and in binary digits (`111110`);
2. a calculation with that value: `180 - 118`, `60 plus 2`, `\\frac{124}{2}`, and every part of a
   longer one; in words `twice 31`, `31 doubled`, `the sum of 60 and 2`, `one more than 61`.

For words the words, and for anything else (pairs, ratios, intervals) what the grader reads as
equal. Each way to say an answer is a function of the text's tokens, one target, and the checks that
it may spend; it yields spans of the text. The work is bounded: `TooMuch` is raised for a text with
more arithmetic in it than a description has.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

from visual_r1.grading.equivalence import Rounding
from visual_r1.grading.expressions import Literal
from visual_r1.grading.forms import Group, Quantity, Reading, Word
from visual_r1.rewards.blindfold.scan_text import Lexeme, lexemes, math_of, runs, segments
from visual_r1.rewards.blindfold.targets import Checks, Span, Target, same

Way = Callable[[Sequence[Lexeme], Target, Checks], Iterator[Span]]
MAX_RUN_TOKENS = 24

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


def answers_in(
    tokens: Sequence[Lexeme], targets: Sequence[Target], rounding: Rounding
) -> list[Span]:
    """The places in the text of `tokens` that say one of `targets`; they may overlap.

    Raises `TooMuch` where there is too much to look through.
    """
    checks = Checks(rounding)
    of_a_quantity: tuple[Way, ...] = (
        literals,
        digits_apart,
        tens_apart,
        roman,
        binary,
        calculations,
        calculations_in_words,
    )
    found: list[Span] = []
    for one in targets:
        ways = of_a_quantity if one.is_quantity else (equal_stretches,)
        if one.is_a_word or not one.is_quantity:
            ways = (*ways, phrases)
        for way in ways:
            found += way(tokens, one, checks)
    return found


def literals(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """Numbers that are the target by themselves, or with the percent sign or unit behind them."""
    has_unit = any(
        isinstance(form, Quantity) and form.unit is not None
        for reading in one.readings
        for form in reading.chain
    )
    for token, follower in zip_longest(tokens, tokens[1:]):
        if token.role != "value":
            continue
        if token.number is None:  # π, or a fraction in one character
            if one.value is not None and checks.says(token.math, one):
                yield token.start, token.end
        elif _is_value_of(token, one, checks.rounding):
            yield token.start, token.end
        elif (
            follower is not None
            and (
                follower.text in ("%", "percent")
                # A unit may be another one of the same kind.
                or (has_unit and follower.role == "silent" and follower.text.isalpha())
            )
            and checks.says(f"{token.math} {follower.text}", one)
        ):
            yield token.start, follower.end


def _is_value_of(token: Lexeme, one: Target, rounding: Rounding) -> bool:
    """Whether a number by itself is the target."""
    if token.number is None or one.value is None:
        return False
    if max(abs(token.number), abs(one.value)) < 10**12:
        # Cheap, and true wherever the two could be equal, rounding and percent allowed.
        value, wanted = float(token.number), float(one.value)
        if not any(
            abs(value - each) <= 0.051 + 1e-6 * abs(value)
            for each in ((wanted, wanted / 100) if one.is_percent else (wanted,))
        ):
            return False
    mine = Reading((Quantity(Literal(token.number, token.decimals), token.decimals),))
    return any(same(mine, gold, rounding) for gold in one.readings)


def digits_apart(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
    """`6 2`, `six two`, `6-2`, `12 point 5`: numbers side by side that together spell the value."""
    wanted = one.digits
    if len(wanted) < 2:
        return
    plain = [token.math if token.math.isdigit() else "" for token in tokens]
    for first, token in enumerate(tokens):
        if token.number is None or not plain[first] or not wanted.startswith(plain[first]):
            continue
        spelled, parts = plain[first], 1
        for place in range(first + 1, min(len(tokens), first + 3 * len(wanted))):
            after = tokens[place]
            if after.number is not None:
                spelled, parts = spelled + plain[place], parts + 1
            elif after.text.lower() == "point" or (after.text == "." and "." in wanted):
                spelled += "."
            elif after.text not in _JOINTS and not (after.text == "," and after.start):
                break
            if not wanted.startswith(spelled):
                break
            if spelled == wanted and parts > 1:
                yield token.start, after.end
                break


def tens_apart(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
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


def roman(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
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


def binary(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
    """`111110`: from five digits on, for shorter ones (`110`) are what a figure may well say."""
    for token in tokens:
        bits = token.text
        if len(bits) >= 5 and set(bits) <= {"0", "1"} and int(bits, 2) == one.value:
            yield token.start, token.end


def calculations(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """Every part of every calculation that comes to the target."""
    for run in runs(tokens, one.names):
        for segment in segments(run):
            for first, token in enumerate(segment):
                begins = token.role in ("value", "open", "function")
                if not (begins or token.text in ("-", *one.names)):
                    continue
                for last in _ends(segment, first, one.names):
                    part = segment[first : last + 1]
                    if checks.says(math_of(part), one):
                        yield part[0].start, part[-1].end


def _ends(segment: Sequence[Lexeme], first: int, names: frozenset[str]) -> Iterator[int]:
    """Where a calculation that begins at `first` may end: brackets closed, more than one value."""
    depth = 0
    calculates = False
    for last in range(first, min(len(segment), first + MAX_RUN_TOKENS)):
        token = segment[last]
        depth += {"open": 1, "close": -1}.get(token.role, 0)
        if depth < 0:
            return
        calculates = (
            calculates
            or token.role in ("operator", "function", "open")
            or (
                last > first
                and (token.text in names or (token.number is None and token.role == "value"))
            )
        )
        closes = token.role in ("value", "close", "after") or token.text in names
        if depth == 0 and calculates and closes and last > first:
            yield last


def calculations_in_words(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """`twice 31`, `31 doubled`, `half of 124`, `the sum of 60 and 2`, `one more than 61`."""
    pieces: list[str] = []
    starts: dict[int, int] = {}  # where a token begins in the text put together, and which it is
    length = 0
    for index, token in enumerate(tokens):
        if token.role == "silent" or token.math == "°":
            continue
        starts[length] = index
        pieces.append(f"#{index}" if token.role == "value" else token.text.lower())
        length += len(pieces[-1]) + 1
    text = " ".join(pieces)
    for phrase, formula in _COMPILED:
        for found in phrase.finditer(text):
            values = [tokens[int(index)] for index in found.groups()]
            if checks.says(formula.format(*(value.math for value in values)), one):
                first = tokens[starts[found.start()]]
                yield first.start, max(value.end for value in values)


def phrases(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
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


def equal_stretches(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
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
