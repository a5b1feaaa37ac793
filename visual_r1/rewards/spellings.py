"""Ways to say an answer that the grader does not read, or reads only as a whole."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from visual_r1.grading.forms import Group, Word
from visual_r1.rewards.scan_text import Lexeme, lexemes
from visual_r1.rewards.targets import Checks, Span, Target

_PAIRED = {"sum": "+", "product": "*", "difference": "-", "quotient": "/"}
_SCALED = {
    "twice": Fraction(2), "double": Fraction(2), "thrice": Fraction(3), "triple": Fraction(3),
    "half": Fraction(1, 2), "third": Fraction(1, 3), "quarter": Fraction(1, 4),
}  # fmt: skip
_JOINTS = frozenset(
    ("-", "_", "'", '"', "*", "{", "}", "\\,", "\\!", "\\;", "\\:", "\\ ", "~", "`")
)
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


def _plain(token: Lexeme) -> str:
    return token.math if token.math.isdigit() else ""


def roman(tokens: Sequence[Lexeme], one: Target) -> Iterator[Span]:
    """`LXII` and `lxii`; single letters are names of points."""
    if not one.digits.isdigit() or not 1 < int(one.digits) < 4000:
        return
    left, wanted = int(one.digits), ""
    for size, letters in _ROMAN:
        wanted += letters * (left // size)
        left %= size
    if len(wanted) < 2:
        return
    for token in tokens:
        if token.text in (wanted, wanted.lower()):
            yield token.start, token.end


def in_words(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """`twice 31`, `half of 124`, `31 doubled`, `the sum of 60 and 2`."""
    for index, token in enumerate(tokens):
        word = token.text.lower()
        rest = [t for t in tokens[index + 1 : index + 6] if t.math not in ("", "of", "between")]
        if word in _SCALED and rest and rest[0].number is not None:
            if checks.says(f"({_SCALED[word]}) * {rest[0].math}", one):
                yield token.start, rest[0].end
        elif word in _PAIRED and len(rest) > 2 and rest[1].text.lower() in ("and", "by", ","):
            left, _, right = rest[:3]
            if left.number is None or right.number is None:
                continue
            if any(
                checks.says(f"{a.math} {_PAIRED[word]} {b.math}", one)
                for a, b in ((left, right), (right, left))
            ):
                yield token.start, right.end


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
