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
from collections.abc import Callable, Collection, Iterator, Sequence
from fractions import Fraction
from itertools import zip_longest

from visual_r1.grading.equivalence import Rounding
from visual_r1.grading.expressions import Literal
from visual_r1.grading.forms import Group, Quantity, Reading, Word
from visual_r1.rewards.blindfold.arithmetic import (
    calculated,
    equations,
    said_of_each_other,
)
from visual_r1.rewards.blindfold.roman import roman_of, with_roman_numbers
from visual_r1.rewards.blindfold.scan_text import Lexeme, lexemes
from visual_r1.rewards.blindfold.targets import Checks, Span, Target, TooMuch, same

# More than any figure shows.
MAX_NUMBERS = 400
Way = Callable[[Sequence[Lexeme], Target, Checks], Iterator[Span]]

# Signs that set numbers in relation; any other sign between two of them only sets them apart.
_RELATES = frozenset("=+<>()[]:/^%°×≈≠≤≥,")
_ARROWS = frozenset(("→", "->", "=>", "⇒", "⟹", "⟶", "⟾"))
_DIGITS_OF_CODES = 48  # the character code of `0`


def answers_in(
    tokens: Sequence[Lexeme],
    targets: Sequence[Target],
    rounding: Rounding,
    known: Collection[Fraction] = (),
) -> list[Span]:
    """The places in the text of `tokens` that say one of `targets`; they may overlap.

    `known` are the numbers of the figure, as far as they are known. Raises `TooMuch` where there is
    too much to look through.
    """
    checks = Checks(rounding, known)
    of_a_quantity: tuple[Way, ...] = (
        literals,
        digits_apart,
        parts_apart,
        in_letters,
        in_codes,
        roman,
        binary,
        other_bases,
        turned_around,
        calculated,
        equations,
        said_of_each_other,
    )
    found: list[Span] = []
    tokens = with_roman_numbers(tokens)
    if sum(token.role == "value" for token in tokens) > MAX_NUMBERS:
        raise TooMuch
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
        elif follower is not None and (
            (follower.text in ("%", "percent") and token.number / 100 == one.value)
            # A unit may be another one of the same kind.
            or (
                (has_unit and follower.role == "silent" and follower.text.isalpha())
                and checks.says(f"{token.math} {follower.text}", one)
            )
        ):
            yield token.start, follower.end


def _is_value_of(token: Lexeme, one: Target, rounding: Rounding) -> bool:
    """Whether a number by itself is the target."""
    if token.number is None or one.value is None:
        return False
    if max(abs(token.number), abs(one.value)) < 10**12:
        # Cheap, and true wherever the two could be equal, rounding and percent allowed.
        value, wanted = float(token.number), float(one.value)
        if value != wanted and abs(value - wanted) < 1e-4 * max(1.0, abs(wanted)):
            return True  # 61.99999
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
        for place in range(first + 1, min(len(tokens), first + 4 * len(wanted))):
            after = tokens[place]
            if after.number is not None:
                spelled, parts = spelled + plain[place], parts + 1
            elif after.text.lower() == "point" or (after.text == "." and "." in wanted):
                spelled += "."
            elif not _only_sets_apart(after):
                break
            if not wanted.startswith(spelled):
                break
            if spelled == wanted and parts > 1:
                yield token.start, after.end
                break


def _only_sets_apart(token: Lexeme) -> bool:
    """Whether what stands between two digits says nothing of them: layout, a sign, `then`."""
    if token.text.isalpha():
        return token.text.lower() == "then"
    if token.text in _ARROWS:
        return True
    return (
        token.role == "silent"
        or token.text[0] == "\\"
        or (
            token.role not in ("equals", "after", "function")
            and (token.text not in _RELATES or token.text == ",")
        )
    )


def parts_apart(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
    """`sixty and two`, `60-two`, `Sixty. Two`, `140 & 5`: a round number, and what fills it up."""
    for first, token in enumerate(tokens):
        round_to = _round_to(token)
        if not round_to:
            continue
        for after in tokens[first + 1 : first + 4]:
            if after.number is not None:
                if 0 < after.number < round_to and token.number + after.number == one.value:  # pyright: ignore[reportOptionalOperand]
                    yield token.start, after.end
                break
            if after.text.lower() != "and" and not _only_sets_apart(after):
                break


def _round_to(token: Lexeme) -> int:
    """100 for 300, 10 for 60, 0 for what is no round number."""
    if token.number is None or token.number.denominator != 1 or token.number <= 0:
        return 0
    digits = str(token.number.numerator)
    return 10 ** (len(digits) - len(digits.rstrip("0"))) if digits[-1] == "0" else 0


def in_letters(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
    """`F-B`, `A.E.G`, `letters d j`: a letter for each digit, by its place in the alphabet.

    `A, B` and `A and B` are two points.
    """
    wanted = [chr(ord("a") + int(d) - 1) if d != "0" else "j" for d in one.digits if d.isdigit()]
    if len(wanted) < 2 or not one.digits.isdigit():
        return
    for first in range(len(tokens)):
        place, last = first, first
        for letter in wanted:
            while (
                place > first
                and place < len(tokens)
                and (tokens[place].text != "," and _only_sets_apart(tokens[place]))
            ):
                place += 1
            if place >= len(tokens) or tokens[place].text.lower() != letter:
                break
            last, place = place, place + 1
        else:
            yield tokens[first].start, tokens[last].end


def in_codes(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
    """`54 50`, `chr(54) chr(50)`: the character codes of the digits, one behind the other."""
    wanted = [_DIGITS_OF_CODES + int(digit) for digit in one.digits if digit.isdigit()]
    numbers = [token for token in tokens if token.number is not None]
    if len(wanted) < 2:
        return
    for first in range(len(numbers) - len(wanted) + 1):
        part = numbers[first : first + len(wanted)]
        if [token.number for token in part] == wanted:
            yield part[0].start, part[-1].end


def roman(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
    """`LXII`, `lxii`, `Lxii` and `L X I I`; single letters are names of points."""
    if not one.digits.isdigit() or not 1 < int(one.digits) < 4000:
        return
    wanted = roman_of(int(one.digits))
    if len(wanted) < 2:
        return
    for place, token in enumerate(tokens):
        if token.text in (wanted, wanted.lower(), wanted.capitalize()):
            yield token.start, token.end
        apart = tokens[place : place + len(wanted)]
        if "".join(part.text for part in apart) == wanted and len(apart) == len(wanted):
            yield token.start, apart[-1].end


def binary(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
    """`111110`, `0011 1110`: from five digits on, for shorter ones (`110`) are what a figure may
    well say."""
    for first in range(len(tokens)):
        bits = ""
        for token in tokens[first : first + 16]:
            if not set(token.text) <= {"0", "1"}:
                break
            bits += token.text
            if len(bits) >= 5 and int(bits, 2) == one.value:
                yield tokens[first].start, token.end


def other_bases(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
    """`3Eh`, `#3E`, `16r3E`, `76o`; and `76` in a clause that speaks of a base."""
    if not isinstance(one.value, Fraction) or one.value.denominator != 1 or one.value < 8:
        return
    value = one.value.numerator
    for first, token in enumerate(tokens):
        last, chunk = first, ""
        while last < len(tokens) and (last == first or tokens[last].start == tokens[last - 1].end):
            if not tokens[last].text.isalnum():
                break
            chunk += tokens[last].text
            last += 1
        if (
            chunk
            and first
            and tokens[first - 1].text in "#$'_"
            and tokens[first - 1].end == token.start
            and not (tokens[first - 1].text == "$" and chunk.isdigit())  # dollars
        ):
            chunk = "#" + chunk
        if any(_in_base(digits, base) == value for digits, base in _bases_of(chunk)):
            yield token.start, tokens[last - 1].end
        near = [other.text.lower() for other in tokens[max(0, first - 4) : first + 5]]
        if (
            token.number is not None
            and any(re.fullmatch(r"bin(ary)?|oct(al)?|hex(adecimal)?|base|radix", w) for w in near)
            and any(_in_base(token.text, base) == value for base in (2, 8, 16, 12, 36, 20))
        ):
            yield token.start, token.end


_HEXADECIMAL = re.compile(
    r"#?[xX]?(?=[0-9A-F]*\d)(?=[0-9]*[A-F])[0-9A-F]+[hH]?"
    r"|[#xX][xX]?[0-9a-fA-F]+|[0-9][0-9a-fA-F]*[hH]"
)


def _bases_of(chunk: str) -> Iterator[tuple[str, int]]:
    """What digits in which base a chunk of letters and digits may be."""
    if _HEXADECIMAL.fullmatch(chunk):
        yield chunk.lstrip("#xX").rstrip("hH"), 16
    elif found := re.fullmatch(r"([0-7]+)[oq]", chunk):
        yield found[1], 8
    elif found := re.fullmatch(r"([01]{3,})b", chunk):
        yield found[1], 2
    elif (found := re.fullmatch(r"(\d{1,2})[rR]([0-9a-zA-Z]+)", chunk)) and 2 <= int(
        found[1]
    ) <= 36:
        yield found[2], int(found[1])


def _in_base(digits: str, base: int) -> int | None:
    try:
        return int(digits, base) if len(digits) <= 16 else None
    except ValueError:
        return None


def turned_around(tokens: Sequence[Lexeme], one: Target, _: Checks) -> Iterator[Span]:
    """`26 reversed`, `26, read from the right`: the digits from behind, where a word says so."""
    wanted = one.digits[::-1]
    if len(wanted) < 2:
        return
    for place, token in enumerate(tokens):
        if token.math == wanted and token.number is not None:
            near = tokens[max(0, place - 4) : place + 5]
            if any(
                other.text.lower().startswith(("revers", "backw", "mirror", "flip", "turn", "swap"))
                for other in near
            ):
                yield token.start, token.end


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
