"""Where a text says an answer: in any spelling the grader reads, or as a calculation of it.

What is looked for, for an answer that is a number or an expression:

1. the value itself: `62`, `62.0`, `６２`, `sixty-two`, `0x3E`, `111110`, `LXII`, its digits apart
   (`6 2`);
2. a calculation with that value: `180 - 118`, `60 plus 2`, `\\frac{124}{2}`, `twice 31`,
   `31 doubled`, `the sum of 60 and 2`, `one more than 61`; every part of a longer
   calculation counts too.

For words the words, for a choice its letter where it is called a choice, and for anything else
(pairs, ratios, intervals) what the grader reads as equal. The work is bounded: `TooMuch` is raised
for a text with more arithmetic in it than a description has.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from visual_r1.grading.equivalence import Rounding
from visual_r1.grading.expressions import Literal
from visual_r1.grading.forms import Answer, Quantity
from visual_r1.rewards.scan_text import Lexeme, runs
from visual_r1.rewards.spellings import (
    binary,
    digits_apart,
    in_words,
    phrases,
    roman,
    tens_apart,
    windows,
)
from visual_r1.rewards.targets import Checks, Span, Target, same

MAX_RUN_TOKENS = 24


def answers_in(
    tokens: Sequence[Lexeme], targets: Sequence[Target], rounding: Rounding
) -> list[Span]:
    """The places in the text of `tokens` that say one of `targets`; they may overlap.

    Raises `TooMuch` where there is too much to look through.
    """
    checks = Checks(rounding)
    found: list[Span] = []
    for one in targets:
        if one.is_quantity:
            found += _literals(tokens, one, checks)
            found += digits_apart(tokens, one)
            found += tens_apart(tokens, one)
            found += roman(tokens, one)
            found += binary(tokens, one)
            found += _calculations(tokens, one, checks)
            found += in_words(tokens, one, checks)
        else:
            found += windows(tokens, one, checks)
        if not one.is_quantity or one.is_a_word:
            found += phrases(tokens, one)
    return found


def _literals(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """Numbers that are the target by themselves, or with the sign or unit behind them."""
    for index, token in enumerate(tokens):
        if token.kind != "value":
            continue
        if token.number is None:
            if one.value is not None and checks.says(token.math, one):
                yield token.start, token.end
            continue
        follower = tokens[index + 1] if index + 1 < len(tokens) else None
        if _is_near(token.number, one) and _same_literal(token, one, checks.rounding):
            yield token.start, token.end
        elif (
            follower is not None
            and _changes_value(follower, one)
            and checks.says(f"{token.math} {follower.text}", one)
        ):
            yield token.start, follower.end


def _is_near(number: Fraction, one: Target) -> bool:
    """Cheap, and true wherever the two could be equal, rounding and percent allowed."""
    if one.value is None:
        return False
    if max(abs(number), abs(one.value)) >= 10**12:
        return True
    value, wanted = float(number), float(one.value)
    return any(
        abs(value - each) <= 0.051 + 1e-6 * abs(value)
        for each in ((wanted, wanted / 100) if one.is_percent else (wanted,))
    )


def _same_literal(token: Lexeme, one: Target, rounding: Rounding) -> bool:
    assert token.number is not None
    mine = Answer((Quantity(Literal(token.number, token.decimals), token.decimals),))
    return any(same(mine, gold, rounding) for gold in one.readings)


def _changes_value(follower: Lexeme, one: Target) -> bool:
    """Percent, and units that the target has too, perhaps others of the same kind."""
    if follower.text in ("%", "percent"):
        return True
    has_unit = any(
        isinstance(form, Quantity) and form.unit is not None
        for reading in one.readings
        for form in reading.chain
    )
    return has_unit and follower.kind == "silent" and follower.text.isalpha()


def _calculations(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """Every part of every calculation that comes to the target."""
    for run in runs(tokens, one.names):
        for segment in segments(run):
            for first, token in enumerate(segment):
                if not (
                    token.kind in ("value", "open", "function") or token.text in ("-", *one.names)
                ):
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
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
        if depth < 0:
            return
        calculates = (
            calculates
            or token.kind in ("operator", "function", "open")
            or (
                last > first
                and (token.text in names or (token.number is None and token.kind == "value"))
            )
        )
        closes = token.kind in ("value", "close", "after") or token.text in names
        if depth == 0 and calculates and closes and last > first:
            yield last


def segments(run: Sequence[Lexeme]) -> Iterator[list[Lexeme]]:
    """The parts of a run between its equality signs, empty ones too."""
    part: list[Lexeme] = []
    for token in run:
        if token.kind == "equals":
            yield part
            part = []
        else:
            part.append(token)
    yield part


def math_of(part: Iterable[Lexeme]) -> str:
    """What the grader reads for these tokens."""
    return " ".join(token.math for token in part if token.math)
