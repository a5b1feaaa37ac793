"""A response, or an answer, against the gold answer: the verdict and its reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from string import ascii_uppercase
from typing import Literal

from visual_r1.grading.equivalence import Rounding, same_answer
from visual_r1.grading.extraction import extract_answer
from visual_r1.grading.forms import Contradiction
from visual_r1.grading.reading import read
from visual_r1.grading.spelling import Unreadable, canonical

# Raised whenever a verdict may change: stored rollouts can then be graded again and compared. Not
# for what trigonometry finds to be exactly 0 (sin 180° against tan 180°) since mpmath computes it:
# no labelled case has one, and runs that were begun before could not end under another version.
GRADER_VERSION = "3"

Verdict = Literal["right", "wrong", "gave_up"]

# Of a problem whose choices are not known: what comes later in the alphabet is mostly a name.
_USUAL_LETTERS = 8

_CALLED = (
    r"(?:it is\s+|(?:i|we) (?:choose|pick|select)\s+)?"
    r"(?:(?:the\s+)?(?:correct\s+|final\s+|right\s+|best\s+)?"
    r"(?:answer|option|choice|letter)(?:\s+(?:is|would be))?\s*[:=]?\s*){0,2}"
)
_SAYS_RIGHT = re.compile(
    r"^is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice|one))?$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Grade:
    """`verdict`: right, wrong, or gave_up where the grader could not tell; `reason` in words."""

    verdict: Verdict
    reason: str
    version: str = GRADER_VERSION

    @property
    def right(self) -> bool:
        return self.verdict == "right"


def grade(
    response: str,
    reference: str,
    rounding: Rounding = "exact",
    *,
    choices: Sequence[str] = (),
) -> Grade:
    """Grade a whole response against the gold answer.

    Args:
        response: what the model wrote, tags and all.
        reference: the gold answer.
        rounding: "rounded" also accepts a decimal with k >= 1 decimals on either side that is the
            other side rounded to k.
        choices: the texts of choices A, B, ... where the problem shows them; then a letter and
            the text of its choice are the same answer.
    """
    answer = extract_answer(response)
    if answer is None:
        return Grade(
            "wrong", "no answer: exactly one <answer>, or one \\boxed{}, after the thought"
        )
    return grade_answer(answer, reference, rounding, choices=choices)


def grade_answer(
    answer: str,
    reference: str,
    rounding: Rounding = "exact",
    *,
    choices: Sequence[str] = (),
) -> Grade:
    """Grade an answer that has already been taken out of its response."""
    if not answer.strip():
        return Grade("wrong", "the answer is empty")
    if not reference.strip():
        return Grade("gave_up", "the gold answer is empty")
    try:
        gold = choice_named(reference, choices)
        chosen = _chosen(answer, choices) if choices or gold is not None else None
        if gold is not None and chosen is not None:
            if chosen == gold:
                return Grade("right", "the same choice")
            return Grade("wrong", "another choice")
        if gold is not None:
            if gold >= len(choices):
                return Grade("wrong", "no single choice")
            reference = choices[gold]
        if chosen is not None:
            if chosen >= len(choices):
                return Grade("wrong", "there is no such choice")
            answer = choices[chosen]
        return _grade_value(answer, reference, rounding)
    except Unreadable as error:
        return Grade("gave_up", f"the answer cannot be read: {error}")
    except RecursionError:  # the caller has used up the stack: depth here is bounded
        return Grade("gave_up", "the answer cannot be read: no room left on the stack")


def is_equivalent(answer: str, reference: str, rounding: Rounding = "exact") -> bool:
    """Whether the grader finds `answer` right for `reference`."""
    return grade_answer(answer, reference, rounding).right


def _grade_value(answer: str, reference: str, rounding: Rounding) -> Grade:
    try:
        gold = read(reference)
    except Unreadable as error:
        return Grade("gave_up", f"the gold answer cannot be read: {error}")
    try:
        for mine in read(answer):
            if any(same_answer(mine, one, rounding) for one in gold):
                return Grade("right", "the same answer")
    except Contradiction as error:
        return Grade("wrong", str(error))
    if _plain(answer) == _plain(reference) and _plain(reference).isalpha():
        return Grade("right", "the same words")
    return Grade("wrong", "another answer")


def _plain(text: str) -> str:
    return "".join(canonical(text).casefold().split())


def choice_named(text: str, choices: Sequence[str] = ()) -> int | None:
    """The place of the choice that `text` names by its letter alone: `B`, `(B)`; None otherwise.

    A to H are letters of choices, and those that come later where there are so many choices.
    """
    try:
        found = re.fullmatch(rf"\(?\s*([{_letters(choices)}])\s*\)?", canonical(text))
    except Unreadable:
        return None
    return ascii_uppercase.index(found[1]) if found else None


def _letters(choices: Sequence[str]) -> str:
    return ascii_uppercase[: max(_USUAL_LETTERS, len(choices))]


@cache
def _answer_by_letter(letters: str) -> re.Pattern[str]:
    return re.compile(
        rf"{_CALLED}(?:[(\[]\s*([{letters}])\s*[)\]]|([{letters}])(?=[\s.):,]|$))"
        r"\s*(-(?=\s)|[.):,]*)\s*(.*)",
        re.IGNORECASE | re.DOTALL,
    )


def _chosen(answer: str, choices: Sequence[str]) -> int | None:
    """Which choice the answer picks by letter (`B`, `(b)`, `option B`, `B. 12`), if any."""
    letters = _letters(choices)
    found = _answer_by_letter(letters).fullmatch(canonical(answer))
    if found is None:
        return None
    place = ascii_uppercase.index((found[1] or found[2]).upper())
    mark, rest = found[3], _SAYS_RIGHT.sub("", found[4]).strip()
    if not rest:
        return place
    if "," in mark or not (mark or found[1] or rest.startswith("(")):
        return None  # `B, 6` and `B 6`
    # What follows must be that choice's text; other letters or choices make it two answers.
    if re.search(rf"(?<![A-Za-z\\])[{letters}](?![A-Za-z])", rest) or not _one_value(rest):
        return None
    if choices and place < len(choices):
        return place if _grade_value(rest, choices[place], "rounded").right else None
    return place


def _one_value(text: str) -> bool:
    try:
        return all(len(reading.chain) == 1 for reading in read(text))
    except Unreadable:
        return False
