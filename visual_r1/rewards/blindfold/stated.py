"""Where the figure's facts are known, the numbers that neither they nor the question state.

Nothing is listed here: a description has its numbers from the figure, and a number that is not
there was put there for another reason, or misread. It is masked, however it is written and whatever
would come of it. Left are numbers that only count and name (`two chords`, `triangle 2`), and the
angles that everybody knows (90, 180, 360), unless their digits in a row spell an answer
(`six sides beside two lines`), or one of them leads to it from a number of the figure.
"""

import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations, pairwise, takewhile
from typing import Any, cast

from visual_r1.grading.spelling import Token
from visual_r1.grading.units import read_unit
from visual_r1.rewards.blindfold.scan_text import Lexeme, lexemes
from visual_r1.rewards.blindfold.targets import Span, Target
from visual_r1.rewards.grounding import is_figure_word

_KNOWN_ANGLES = frozenset(map(Fraction, (90, 180, 360)))
_MOST_COUNTED = 12
_LETTERS_OF_A_PLURAL = 2
_TRIES = 20
_MOST_KEPT_APART = 40
# Numbers by another name, which count nothing of a figure.
_ROUND = frozenset(
    ("tens", "ones", "units", "hundreds", "dozens", "dozen", "score", "times", "more")
)


def unstated(
    tokens: Sequence[Lexeme],
    stated: Sequence[Lexeme],
    targets: Sequence[Target],
    named: Collection[Fraction] = (),
) -> Iterator[Span]:
    """The numbers among `tokens` that neither `stated` nor `named` holds, as spans of the text."""
    known = {token.number for token in stated if token.number is not None}
    known |= {number / 100 for number in known} | set(named)
    left: list[Lexeme] = []
    for place, token in enumerate(tokens):
        if token.role != "value" or token.number in known or token.math == "\\pi":
            continue
        if token.number is None:  # a fraction in one character
            if token.math not in {other.math for other in stated}:
                yield token.start, token.end
        elif token.number in _KNOWN_ANGLES or _counts_or_names(tokens, place):
            left.append(token)
        else:
            yield token.start, token.end
    yield from spelled_by_counts(left, targets)
    yield from _what_is_missing(left, known, targets)


def _what_is_missing(
    counted: Sequence[Lexeme], known: Collection[Fraction | None], targets: Sequence[Target]
) -> Iterator[Span]:
    """The small numbers that lead from one of the figure's to an answer: `12 lines` beside 74 for
    62, which goes along when the 74 is moved."""
    for one in targets:
        if not isinstance(one.value, Fraction):
            continue
        steps = {abs(one.value - number) for number in known if number is not None}
        yield from (
            (token.start, token.end)
            for token in counted
            if token.number in steps and token.number not in (1, *_KNOWN_ANGLES)
        )


def is_measure(word: str) -> bool:
    """Whether a word is a unit that measures, as `feet` and `cm` do and `sides` do not."""
    unit = read_unit([Token("word", word.lower(), True)])
    return unit is not None and bool(unit.measures)


def counts(tokens: Sequence[Lexeme]) -> list[Lexeme]:
    """The numbers that count things: small ones with a plural behind them that is no unit."""
    return [
        token
        for token, following in pairwise(tokens)
        if token.number is not None
        and 0 <= token.number <= _MOST_COUNTED
        and len(following.text) > _LETTERS_OF_A_PLURAL
        and following.text.isalpha()
        and following.text.lower().endswith("s")
        and not is_measure(following.text)
    ]


def spelled_by_counts(tokens: Sequence[Lexeme], targets: Sequence[Target]) -> Iterator[Span]:
    """Those of `tokens`, numbers that by themselves may stand, that in a row spell a target."""
    for one in targets:
        yield from _spelled_by(tokens, one.digits)


def _counts_or_names(tokens: Sequence[Lexeme], place: int) -> bool:
    """Whether a small number counts what comes next, names what was before, or numbers a line."""
    number = tokens[place].number
    if number is None or number.denominator != 1 or not 0 < number <= _MOST_COUNTED:
        return False
    if number == 1:
        return True
    before = tokens[place - 1].text.lower() if place else ""
    # Words up to the end of the clause; the x of `2x` is none.
    words = takewhile(lambda token: token.text.isalpha(), tokens[place + 1 : place + 4])
    following = [token.text.lower() for token in words if token.start > tokens[place].end]
    if is_figure_word(before) or before in ("∠", "\\angle", "_", "figure", "picture"):
        return True
    return (
        bool(following)
        and following[0] not in _ROUND
        and any(
            is_figure_word(word) or (word.isalpha() and word.endswith("s") and len(word) > 2)
            for word in following
        )
    )


def _spelled_by(tokens: Sequence[Lexeme], digits: str) -> Iterator[Span]:
    """The numbers that one behind the other are the digits."""
    if len(digits) < 2:
        return
    for first in range(len(tokens)):
        spelled = ""
        for last in range(first, len(tokens)):
            spelled += tokens[last].math
            if not digits.startswith(spelled):
                break
            if spelled == digits:
                yield from ((token.start, token.end) for token in tokens[first : last + 1])


def counted_in(facts: Any) -> dict[str, set[int]]:
    """How many of what the facts name: `{"parallel lines": ["l", "m", "n"]}` and
    `parallel lines: l, m, n` are three lines, and so are facts on `line l`, `line m` and `line n`.
    """
    found: dict[str, set[int]] = {}
    names: dict[str, set[str]] = {}
    _count(facts, "", found, names)
    for thing, named in names.items():
        found.setdefault(thing, set()).add(len(named))
    return found


def _count(facts: Any, key: str, found: dict[str, set[int]], names: dict[str, set[str]]) -> None:
    if isinstance(facts, Mapping):
        for name, value in cast("Mapping[Any, Any]", facts).items():
            _count(value, str(name), found, names)
        return
    if isinstance(facts, Sequence) and not isinstance(facts, str):
        items = cast("Sequence[Any]", facts)
        for word in re.findall(r"[a-z]+", key.lower()):
            found.setdefault(singular(word), set()).add(len(items))
        for item in items:
            _count(item, "", found, names)
        return
    words = [token.text for token in lexemes(str(facts))]
    for chain in re.findall(r"\b\w++(?:\s*+(?:∥|\|\||\\parallel)\s*+\w++)+", str(facts)):
        found.setdefault("line", set()).add(len(re.findall(r"(?<!\\)\b\w+", chain)))
    # What a noun is followed by: one name, or several of them in a row.
    for at, (noun, following) in enumerate(pairwise(words)):
        thing = singular(noun.lower())
        if not is_figure_word(thing):
            continue
        rest = at + 2 if following in (":", ",") else at + 1
        row: list[str] = []
        for word in words[rest:]:
            if word in (",", "and", "∥", "||", "\\parallel", "are", "is", "parallel", "to"):
                continue
            if not _is_name(word):
                break
            row.append(word)
        names.setdefault(thing, set()).update(row)
        if len(row) > 1:
            found.setdefault(thing, set()).add(len(row))


def _is_name(word: str) -> bool:
    return word.isalnum() and (len(word) == 1 or (word.isupper() and len(word) < 4))


def singular(word: str) -> str:
    """`lines` as `line`."""
    return word.removesuffix("s") if len(word) > 3 else word


def numbers_in(text: str) -> frozenset[Fraction]:
    """The numbers that a text names."""
    return frozenset(token.number for token in lexemes(text) if token.number is not None)


def free_numbers(text: str, figure: Collection[Fraction] = ()) -> list[Lexeme]:
    """The numbers of a text that are a matter of its figure: `figure`, as far as they are known,
    and all but those that count or name, and the angles that everybody knows."""
    tokens = lexemes(text)
    return [
        token
        for place, token in enumerate(tokens)
        if token.number is not None
        and token.number not in _KNOWN_ANGLES
        and (token.number in figure or not _counts_or_names(tokens, place))
    ]


def with_numbers_moved(
    texts: Sequence[str],
    rng: random.Random,
    fixed: Collection[Fraction] = (),
    without: Collection[Fraction] = (),
    figure: Collection[Fraction] = (),
) -> list[str] | None:
    """`texts` with their free numbers as others of about their size, each everywhere as the same
    one, save those that are `fixed`; None where there is none to move.

    None of the new ones is one of the old, or of those `without`; `figure` are numbers that are
    moved also where they seem to count or name.
    """
    free = [
        [token for token in free_numbers(text, figure) if token.number not in fixed]
        for text in texts
    ]
    taken = {*numbers_in(" ; ".join(texts)), *_KNOWN_ANGLES, *fixed, *without}
    moved = _moved([token for tokens in free for token in tokens], taken, rng)
    if not moved:
        return None
    found: list[str] = []
    for text, tokens in zip(texts, free, strict=True):
        pieces: list[str] = []
        at = 0
        for token in tokens:
            assert token.number is not None
            digits = _digits_of(moved[token.number], token.decimals or 0)
            pieces += [text[at : token.start], digits]
            at = token.end
        found.append("".join([*pieces, text[at:]]))
    return found


def _digits_of(number: Fraction, places: int) -> str:
    """A number with so many digits after its point, exactly: it may be too large for a float."""
    digits = str(int(number * 10**places)).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


def _moved(
    free: Sequence[Lexeme], taken: Collection[Fraction], rng: random.Random
) -> dict[Fraction, Fraction]:
    """For each number another one. No two have the sum or the difference that they had, nor have
    all the sum, so that what follows from them in one step is another value; beyond so many
    numbers that is left to chance."""
    moved: dict[Fraction, Fraction] = {}
    for _ in range(_TRIES):
        moved = {}
        for token in free:
            number, scale = token.number, 10 ** (token.decimals or 0)
            if number is None or number in moved:
                continue
            low = max(2, int(number * scale) // 2)
            used = {*taken, *moved.values()}
            while number not in moved or moved[number] in used:
                moved[number] = Fraction(rng.randrange(low, 2 * low + len(used) + 8), scale)
        if len(moved) > _MOST_KEPT_APART:
            break
        kept_apart = all(
            a + b != moved[a] + moved[b] and abs(a - b) != abs(moved[a] - moved[b])
            for a, b in combinations(moved, 2)
        )
        if kept_apart and sum(moved) != sum(moved.values()):
            break
    return moved
