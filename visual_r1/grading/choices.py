"""Answers to multiple choice: by letter, or by the text of a choice.

The place of a choice counts before its value: whoever names a choice means it, and not another one
that comes to the same. Choices whose texts are the same, letter for letter, are one choice; who
answers cannot tell them apart.
"""

import re
from collections.abc import Sequence
from functools import cache
from string import ascii_uppercase

from visual_r1.grading.equivalence import Rounding, same_answer
from visual_r1.grading.forms import Contradiction
from visual_r1.grading.reading import read
from visual_r1.grading.spelling import Unreadable, canonical
from visual_r1.grading.texts import same_text

# Of a problem whose choices are not known: what comes later in the alphabet is mostly a name.
_USUAL_LETTERS = 8

_CALLED = (
    r"(?:it is\s+|(?:(?:i|we) )?(?:choose|pick|select)(?:\s*[:=]\s*|\s+))?"
    r"(?:(?:the\s+)?(?:correct\s+|final\s+|right\s+|best\s+)?"
    r"(?:answer|option|choice|letter)(?:\s+(?:is|would be))?\s*[:=]?\s*){0,2}"
)
_SAYS_RIGHT = re.compile(
    r"^is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice|one))?$"
    r"|^(?:option|choice)$",
    re.IGNORECASE,
)
_BEHIND_ITS_TEXT = re.compile(r"(?P<text>.*\S)\s+[(\[](?P<letter>[^()\[\]]{1,30})[)\]]", re.DOTALL)


def choice_named(text: str, choices: Sequence[str] = ()) -> int | None:
    """The place of the choice that `text` names by its letter alone: `B`, `(B)`; None otherwise.

    A to H are letters of choices, and those that come later where there are so many choices.
    """
    try:
        found = re.fullmatch(rf"\(?\s*([{_letters(choices)}])\s*\)?", canonical(text))
    except Unreadable:
        return None
    return ascii_uppercase.index(found[1]) if found else None


def choice_picked(answer: str, choices: Sequence[str]) -> int | None:
    """Which choice the answer picks by letter (`B`, `(b)`, `option B`, `B. 12`, `12 (B)`), if any.

    Raises:
        Unreadable: the answer is beyond the limits.
    """
    letters = _letters(choices)
    by_letter, text = _answer_by_letter(letters), canonical(answer)
    found = by_letter.fullmatch(text)
    behind = _BEHIND_ITS_TEXT.fullmatch(text) if choices and found is None else None
    if behind is not None and by_letter.fullmatch(behind["letter"]):  # `40° (option B)`
        found = by_letter.fullmatch(f"{behind['letter']}: {behind['text']}")
    if found is None:
        return None
    place = ascii_uppercase.index((found[1] or found[2]).upper())
    mark, rest = found[3], _SAYS_RIGHT.sub("", found[4]).strip()
    if not rest:
        return place
    if "," in mark or not (mark or found[1] or rest.startswith("(")):
        return None  # `B, 6` and `B 6`
    if choices and place < len(choices):
        said = choices_said(rest, choices, "exact") or choices_said(rest, choices, "rounded")
        return place if place in said else None
    # What follows must be that choice's text; other letters or choices make it two answers.
    if re.search(rf"(?<![A-Za-z\\])[{letters}](?![A-Za-z])", rest) or not _one_value(rest):
        return None
    return place


def choices_said(text: str, choices: Sequence[str], rounding: Rounding) -> frozenset[int]:
    """The places of the choices whose text is `text`; or else of those it is equal to.

    Nothing is rounded to a choice where it is equal to another one.
    """
    spelled = frozenset(i for i, choice in enumerate(choices) if same_text(text, choice))
    if spelled:
        return spelled
    equal = frozenset(i for i, choice in enumerate(choices) if _same_value(text, choice, "exact"))
    if len(equal) > 1:  # of lists, which are equal in any order, the one that is in this order
        equal = frozenset(i for i in equal if _unspaced(text) == _unspaced(choices[i])) or equal
    if equal or rounding == "exact":
        return equal
    return frozenset(i for i, choice in enumerate(choices) if _same_value(text, choice, rounding))


def _unspaced(text: str) -> str:
    try:
        return "".join(canonical(text).split())
    except Unreadable:
        return text


def _same_value(text: str, choice: str, rounding: Rounding) -> bool:
    try:
        return any(same_answer(x, y, rounding) for x in read(text) for y in read(choice))
    except (Unreadable, Contradiction):
        return False


def _letters(choices: Sequence[str]) -> str:
    return ascii_uppercase[: max(_USUAL_LETTERS, len(choices))]


@cache
def _answer_by_letter(letters: str) -> re.Pattern[str]:
    return re.compile(
        rf"{_CALLED}(?:[(\[]\s*([{letters}])\s*[)\]]|([{letters}])(?=[\s.):,]|$))"
        r"[^\S\n]*(\n|-(?=\s)|[.):,]*)\s*(.*)",
        re.IGNORECASE | re.DOTALL,
    )


def _one_value(text: str) -> bool:
    try:
        return all(len(reading.chain) == 1 for reading in read(text))
    except Unreadable:
        return False
