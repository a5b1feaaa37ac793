"""The blindfold of the second pass: a scan without the answer in it.

Masked as `[masked]` is

    an answer         the gold one or the response's own, however it is written or calculated
                      (`answers`, `arithmetic`), and a choice by its letter or place, where its
                      reader would know it by that (`choices`)
    a letter          there, of any choice, unless it is one of those by which the scan goes
                      through all of them (`labels`)
    results           of calculations: the 118 of `74 + 44 = 118`
    what is unstated  where the figure's facts are known: numbers that neither they nor the
                      question hold (`stated`)
    no language       words and signs that the problem's language has not (`language`)

The first two know the answer and what to look for, so they are certain and have ends; the last two
know neither, and do not ask what something means. Values that the problem's text or the figure's
facts state are never masked: a description may name what is drawn, also where the answer happens to
be the same number.

A scan that is addressed to its reader (`leaks`), says a number in code, or holds more arithmetic
than can be looked through is no description: its second pass counts as wrong.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from string import ascii_uppercase
from typing import Any, Literal, cast

from visual_r1.data.choices import choices_of, only_letters, without_choices
from visual_r1.data.problem import Problem
from visual_r1.grading.equivalence import Rounding
from visual_r1.rewards.blindfold.answers import answers_in
from visual_r1.rewards.blindfold.choices import choices_asked, letters_tell, place_named
from visual_r1.rewards.blindfold.labels import called_choices, letters_told
from visual_r1.rewards.blindfold.language import strange
from visual_r1.rewards.blindfold.leaks import leak_in
from visual_r1.rewards.blindfold.scan_text import (
    Lexeme,
    lexemes,
    math_of,
    runs,
    segments,
)
from visual_r1.rewards.blindfold.stated import (
    counted_in,
    counts,
    numbers_in,
    singular,
    spelled_by_counts,
    unstated,
)
from visual_r1.rewards.blindfold.targets import MASK, Span, Target, TooMuch, numeric, target

Masks = Literal["all", "answers"]
Reason = Literal["an answer", "a letter", "a result", "no language", "unstated"]

# Longer than any description; what is longer is not looked through.
MAX_SCAN_CHARACTERS = 10_000


@dataclass(frozen=True, slots=True)
class MaskedScan:
    """A scan as the second pass may read it.

    `masked` counts the places masked; `held_answer` says whether an answer was among them, or
    leaks; `leak` says what gives the answer away all the same, "" where nothing does.
    """

    text: str
    masked: int
    held_answer: bool
    leak: str = ""


@dataclass(frozen=True, slots=True)
class Mask:
    """A stretch of a scan that is masked, from `start` up to, not including, `end`, and why."""

    start: int
    end: int
    why: tuple[Reason, ...]


def extract_scan(response: str) -> str | None:
    """What stands in the one `<scan>` of a response, stripped; None where there is not exactly one
    or nothing is in it."""
    if response.count("<scan>") != 1 or response.count("</scan>") != 1:
        return None
    _, _, rest = response.partition("<scan>")
    inside, closed, _ = rest.partition("</scan>")
    return inside.strip() or None if closed else None


def named_by_others(responses: Sequence[str], least: int) -> list[frozenset[Fraction]]:
    """For each response of a group, the numbers that at least `least` of the other scans name."""
    named = [numbers_in(extract_scan(response) or "") for response in responses]
    scans = Counter(number for numbers in named for number in numbers)
    return [
        frozenset(n for n, count in scans.items() if count - (n in own) >= least) for own in named
    ]


def mask_scan(
    scan: str,
    problem: Problem,
    answers: Sequence[str],
    rounding: Rounding = "exact",
    masks: Masks = "all",
    named: Collection[Fraction] | None = None,
) -> MaskedScan:
    """`scan` with `answers` (gold, and the response's own) and results masked; with `masks` "all"
    also what is unstated, and no language.

    `named` are the numbers that others see in the figure, for a problem whose facts nobody knows;
    None where nobody was asked.

    Bounded: linear in the length, with at most `targets.MAX_CHECKS` calculations compared.
    """
    if len(scan) > MAX_SCAN_CHARACTERS:
        return MaskedScan(scan[:MAX_SCAN_CHARACTERS], 0, True, "it is too long to be a description")
    try:
        forbidden, why = _looked_for(scan, problem, answers, rounding, masks, named)
        text, masked = _with_masks(scan, [span for spans in why.values() for span in spans])
        is_left = bool(forbidden.said_in(text, lexemes(text)))
    except TooMuch:
        return MaskedScan(scan, 0, True, "it holds more arithmetic than a description does")
    leak = "the answer is still in it" if is_left else leak_in(scan, text)
    return MaskedScan(text, masked, bool(why["an answer"] or leak), leak)


def reasons_of(
    scan: str,
    problem: Problem,
    answers: Sequence[str],
    rounding: Rounding = "exact",
    masks: Masks = "all",
    named: Collection[Fraction] | None = None,
) -> list[Mask]:
    """What `mask_scan` masks, in order, and why; nothing where it did not look through the scan."""
    if len(scan) > MAX_SCAN_CHARACTERS:
        return []
    try:
        _, why = _looked_for(scan, problem, answers, rounding, masks, named)
    except TooMuch:
        return []
    spans = [span for found in why.values() for span in found]
    return [
        Mask(start, end, tuple(r for r in why if any(a < end and b > start for a, b in why[r])))
        for start, end in _joined(scan, spans)
    ]


def _looked_for(
    scan: str,
    problem: Problem,
    answers: Sequence[str],
    rounding: Rounding,
    masks: Masks,
    named: Collection[Fraction] | None,
) -> tuple["_Forbidden", Mapping[Reason, Sequence[Span]]]:
    """What a scan must not say, and where it says it; raises `TooMuch`."""
    facts = figure_facts(problem)
    stated = lexemes(stated_text(problem))
    tokens = lexemes(scan)
    named = None if facts else named
    forbidden = _Forbidden(problem, answers, stated, rounding, named or ())
    why: dict[Reason, Sequence[Span]] = {
        "an answer": forbidden.said_in(scan, tokens),
        "a letter": forbidden.letters_in(scan),
        "a result": list(_results(tokens, forbidden.numbers)),
    }
    if masks == "all":
        why["no language"] = list(strange(scan, stated_text(problem)))
        if facts:
            loose = unstated(tokens, stated, forbidden.targets)
        elif named is not None:
            loose = unstated(tokens, stated, forbidden.targets, named)
        else:
            loose = spelled_by_counts(counts(tokens), forbidden.targets)
        counted = forbidden.counted_in(tokens)
        why["unstated"] = [span for span in loose if span not in counted]
    return forbidden, why


class _Forbidden:
    """What a scan must not say: answers that are not stated, and the letters of choices."""

    def __init__(
        self,
        problem: Problem,
        answers: Sequence[str],
        stated: Sequence[Lexeme],
        rounding: Rounding,
        named: Collection[Fraction],
    ) -> None:
        self.targets, self._letters = _forbidden(problem, answers, stated, rounding)
        self._choices = len(choices_of(problem))
        self._rounding: Rounding = rounding
        self._counts = counted_in(problem.meta.get("facts"))
        # `CD` is 400 in Roman digits; where the problem names a segment CD it is that segment.
        self._names = {
            token.text for token in stated if token.text.isalpha() and token.text.isupper()
        }
        self.numbers = frozenset(token.number for token in stated if token.number is not None)
        self._known = self.numbers | set(named)

    def said_in(self, text: str, tokens: Sequence[Lexeme]) -> list[Span]:
        """Where `text` says what it must not."""
        said = answers_in(tokens, self.targets, self._rounding, self._known)
        counted = self.counted_in(tokens)
        said = [
            span for span in said if text[slice(*span)] not in self._names and span not in counted
        ]
        if self._letters:
            through, _ = letters_told(text, self._choices)
            called = called_choices(text, sorted(self._letters), self._choices)
            said += [one for one in called if not any(_overlap(one, kept) for kept in through)]
        return said

    def letters_in(self, text: str) -> list[Span]:
        """The letters in `text` that tell which choice is the answer, or which is not."""
        return letters_told(text, self._choices)[1] if self._letters else []

    def counted_in(self, tokens: Sequence[Lexeme]) -> set[Span]:
        """The numbers that say how many there are of what the facts name."""
        found: set[Span] = set()
        for place, token in enumerate(tokens):
            if token.number is not None and any(
                token.number in self._counts.get(singular(other.text.lower()), ())
                for other in tokens[place + 1 : place + 3]
            ):
                found.add((token.start, token.end))
        return found


def stated_text(problem: Problem) -> str:
    """What the problem says without its solution: its text, and the facts of the figure where the
    dataset has them (`meta["facts"]`, in any nesting of lists and mappings).

    Choices that it shows are no part of that: the gold answer is among them.
    """
    question = without_choices(problem.question, choices_of(problem))
    return f"{question} ; {figure_facts(problem)}"


def figure_facts(problem: Problem) -> str:
    """What the dataset knows of the figure, in one line; "" where it knows nothing."""
    return " ; ".join(_texts(problem.meta.get("facts")))


def _texts(found: Any) -> Iterator[str]:
    if isinstance(found, Mapping):
        for name, value in cast("Mapping[Any, Any]", found).items():
            yield str(name)
            yield from _texts(value)
    elif isinstance(found, Sequence) and not isinstance(found, str):
        for value in cast("Sequence[Any]", found):
            yield from _texts(value)
    elif found is not None:
        yield str(found)


def _forbidden(
    problem: Problem, answers: Sequence[str], stated: Sequence[Lexeme], rounding: Rounding
) -> tuple[list[Target], set[str]]:
    """What must not be said: answers that are not stated, and the letters of choices where they
    would tell the reader."""
    texts = [text.strip() for text in answers if text.strip()]
    choices = choices_asked(problem)
    letters: set[str] = set()
    for text in list(texts):
        place = place_named(text.rstrip("."), choices)
        if place is not None:
            texts.remove(text)
            letters.add(ascii_uppercase[place])
            if not only_letters(choices):  # such a choice is what the picture has at its letter
                texts += [choice for choice in choices[place : place + 1] if choice.strip()]
    for place, choice in enumerate(choices):
        if choice.strip() and choice.strip() in texts:
            letters.add(ascii_uppercase[place])
    if letters and not letters_tell(problem):
        letters = set()
    targets = [target(text) for text in dict.fromkeys(texts)]
    return [one for one in targets if not _is_stated(one, stated, rounding)], letters


def _is_stated(one: Target, stated: Sequence[Lexeme], rounding: Rounding) -> bool:
    """Whether the problem says the value itself, and does not merely calculate with it."""
    said = answers_in(stated, [one], rounding)
    if not one.is_quantity:
        return bool(said)
    wholes = {
        (part[0].start, part[-1].end)
        for run in runs(stated, one.names)
        for part in segments([token for token in run if token.role != "silent"])
        if part and (one.names or not any(token.math in ("+", "-", "*") for token in part))
    }
    wholes |= {(token.start, token.end) for token in stated if token.number is not None}
    return any(span in wholes for span in said)


def _results(tokens: Sequence[Lexeme], stated: frozenset[Fraction]) -> Iterator[Span]:
    """The other side of every calculation: the 118 of `74 + 44 = 118`, and of `118 = 74 + 44`."""
    for run in runs(tokens):
        sides = list(segments(run))
        calculated = [_is_calculation(side) for side in sides] if len(sides) > 1 else []
        for index, is_calculated in enumerate(calculated):
            before = any(calculated[:index])
            after = not is_calculated and any(calculated[index + 1 : index + 2])
            if not before and not after:
                continue
            # The longest value that the side begins with, up to where something else follows.
            side = sides[index]
            for end in range(len(side), 0, -1):
                if side[end - 1].role in ("operator", "silent"):
                    continue
                value = numeric(math_of(side[:end]))
                if value is not None:
                    if value not in stated:
                        yield side[0].start, side[end - 1].end
                    break


def _is_calculation(side: Sequence[Lexeme]) -> bool:
    """Whether a side of an equality has a value that is worked out, and not merely written."""
    part = list(side)
    while part and part[-1].role in ("operator", "silent"):
        part.pop()
    values = sum(token.role == "value" for token in side)
    works = any(token.role == "function" for token in side) or (
        values > 1 and any(token.role in ("operator", "open") for token in side)
    )
    return works and values > 0 and numeric(math_of(part)) is not None


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and one[1] > other[0]


def _joined(scan: str, spans: Sequence[Span]) -> list[list[int]]:
    """Each stretch of overlapping or touching spans as one, in order."""
    joined: list[list[int]] = []
    for start, end in sorted(spans):
        if joined and not scan[joined[-1][1] : start].strip():
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return joined


def _with_masks(scan: str, spans: Sequence[Span]) -> tuple[str, int]:
    """`scan` with each stretch of overlapping or touching spans as one mask, and their number."""
    joined = _joined(scan, spans)
    pieces: list[str] = []
    at = 0
    for start, end in joined:
        pieces += [scan[at:start], MASK]
        at = end
    return "".join([*pieces, scan[at:]]), len(joined)
