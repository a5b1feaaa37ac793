"""A response, or an answer, against the gold answer: the verdict and its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Literal

from visual_r1.grading.choices import choice_named, choice_picked, choices_said
from visual_r1.grading.equivalence import Rounding, same_answer
from visual_r1.grading.extraction import extract_answer, is_all_thought
from visual_r1.grading.forms import Contradiction
from visual_r1.grading.reading import read
from visual_r1.grading.spelling import Unreadable
from visual_r1.grading.texts import is_words, same_text

# Raised whenever a verdict may change: stored rollouts can then be graded again and compared. Not
# for what trigonometry finds to be exactly 0 (sin 180° against tan 180°) since mpmath computes it:
# no labelled case has one.
GRADER_VERSION = "6"

# Marks that say nothing by themselves.
_NOTHING = " \t\r\n\u200b.,;:?!=*_#~`'\"$"

_MOST_SAID = 200

Verdict = Literal["right", "wrong", "gave_up"]


@dataclass(frozen=True, slots=True)
class Grade:
    """`verdict`: right, wrong, or gave_up where the grader could not tell; `reason` in words."""

    verdict: Verdict
    reason: str
    version: str = GRADER_VERSION

    @property
    def right(self) -> bool:
        return self.verdict == "right"


def verdict_in_words(verdict: str | None, extracted: str | None, *, truncated: bool | None) -> str:
    """How a response was judged, as pages say it; `truncated` is whether it was cut off."""
    if verdict == "right":
        return "right"
    if verdict == "gave_up":
        return "the grader gave up"
    if extracted is None:
        return "cut off before an answer" if truncated else "no answer found"
    return "wrong"


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
    if answer is None and is_all_thought(response):
        return Grade("wrong", "no answer: the thought never ends")
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
    reference = gold_text(reference)
    if not answer.strip(_NOTHING):
        return Grade("wrong", "the answer is empty")
    if not reference.strip():
        return Grade("gave_up", "the gold answer is empty")
    try:
        gold = choice_named(reference, choices)
        if choices:
            places = _gold_places(gold, reference, choices)
            if places is None:
                return Grade("wrong", "the gold answer is none of the choices")
            if places:
                return _grade_choice(answer, places, rounding, choices)
        chosen = choice_picked(answer, choices) if choices or gold is not None else None
        if gold is not None:
            if chosen is None:
                return Grade("wrong", "no single choice")
            right = chosen == gold
            return Grade("right", "the same choice") if right else Grade("wrong", "another choice")
        if chosen is not None:
            if chosen >= len(choices):
                return Grade("wrong", "there is no such choice")
            answer = choices[chosen]
        return _grade_value(answer, reference, rounding)
    except Unreadable as error:
        return Grade("gave_up", f"the answer cannot be read: {error}")
    except RecursionError:  # the caller has used up the stack: depth here is bounded
        return Grade("gave_up", "the answer cannot be read: no room left on the stack")


def failed_grade(error: Exception) -> Grade:
    """What stands for a grade where the grader itself failed: it gave up, and with what.

    That is a fault of ours which a text brings out. Whoever grades what a model wrote catches it,
    for seeded draws bring out the text again, and would stop every restart at the same response.
    """
    last = extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({Path(one.filename).name}, line {one.lineno})" for one in last)
    said = ascii(str(error))[:_MOST_SAID]
    return Grade("gave_up", f"the grader failed with {type(error).__name__}: {said}{place}")


def is_equivalent(answer: str, reference: str, rounding: Rounding = "exact") -> bool:
    """Whether the grader finds `answer` right for `reference`."""
    return grade_answer(answer, reference, rounding).right


def gold_text(reference: str) -> str:
    """The gold answer out of a response's own wrapper: `145°` of `<answer> 145° </answer>`."""
    if "<answer>" not in reference:
        return reference
    return extract_answer(reference) or reference


def fault_of_gold(reference: str) -> str | None:
    """Why a text cannot be a gold answer: it cannot be read, or is not the answer to itself.

    Words may be anything, for they are compared as words. None where it can be one.
    """
    itself = grade_answer(reference, reference)
    if not itself.right:
        return itself.reason
    if is_words(gold_text(reference)):
        return None
    try:
        read(gold_text(reference))
    except Unreadable as error:
        return str(error)
    return None


def _gold_places(gold: int | None, reference: str, choices: Sequence[str]) -> frozenset[int] | None:
    """Which choices are the gold one; none where it is a value that no choice has, None where it
    is the letter of no choice."""
    if gold is None:
        return choices_said(reference, choices, "exact")
    if gold >= len(choices):
        return None
    return frozenset(i for i, text in enumerate(choices) if same_text(text, choices[gold])) | {gold}


def _grade_choice(
    answer: str, gold: frozenset[int], rounding: Rounding, choices: Sequence[str]
) -> Grade:
    """Places first: what names a choice, by letter or by text, is that choice and no other."""
    place = choice_picked(answer, choices)
    if place is not None and place >= len(choices):
        return Grade("wrong", "there is no such choice")
    if place is not None:
        right = place in gold or any(same_text(choices[place], choices[one]) for one in gold)
        return Grade("right", "the same choice") if right else Grade("wrong", "another choice")
    said = choices_said(answer, choices, rounding)
    if said and said <= gold:
        return Grade("right", "the text of the choice")
    if said & gold:
        return Grade("wrong", "the answer fits more than one choice")
    if said:
        return Grade("wrong", "another choice")
    for text in (choices[one] for one in gold):
        try:
            read(text)
        except Unreadable:
            if not is_words(text):
                return Grade("gave_up", "the text of the gold choice cannot be read")
    try:
        read(answer)
    except Unreadable:
        if not is_words(answer):
            raise
    return Grade("wrong", "none of the choices")


def _grade_value(answer: str, reference: str, rounding: Rounding) -> Grade:
    try:
        gold = read(reference)
    except Unreadable as error:
        if same_text(answer, reference):
            return Grade("right", "the same text")
        return Grade("gave_up", f"the gold answer cannot be read: {error}")
    try:
        for mine in read(answer):
            if any(same_answer(mine, one, rounding) for one in gold):
                return Grade("right", "the same answer")
    except Contradiction as error:
        return Grade("wrong", str(error))
    except Unreadable:
        if not (is_words(reference) and is_words(answer)):
            raise
    if is_words(reference) and same_text(answer, reference):
        return Grade("right", "the same words")
    return Grade("wrong", "another answer")
