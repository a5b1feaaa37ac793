"""Choices and scans are anybody's text: what looks through them takes time that grows with them."""

import time
from collections.abc import Callable
from contextlib import suppress
from string import ascii_uppercase

import pytest

from visual_r1.data.choices import (
    BadChoice,
    choices_of,
    in_another_order,
    lists_choices,
    shown_choices,
    with_choices,
    without_choices,
)
from visual_r1.data.problem import Problem
from visual_r1.grading import grade_answer
from visual_r1.rewards.blindfold.choices import in_order, order_of, unaided
from visual_r1.rewards.blindfold.labels import called_choices, letters_told
from visual_r1.rewards.blindfold.language import strange
from visual_r1.rewards.blindfold.leaks import leak_in
from visual_r1.rewards.blindfold.masking import MAX_SCAN_CHARACTERS, mask_scan
from visual_r1.rewards.blindfold.scan_text import lexemes
from visual_r1.rewards.blindfold.stated import counted_in

_SMALLEST, _LARGEST = 16, 8_200
# Of the processor. What grows with the text takes hundredths of a second for the largest; what grew
# with its square took two seconds and more.
_MOST_S = 1.0

PIECES = (
    " ", "\n", "\t ", " , A", "A , ", "A   ", "( ", "(", "(A) ", "A. ", "a. ", "A. B. ", "x",
    "a b ",
    "A.A.", "(((A", "option  ", "is  ", "option is ", "answer is  ", "both A and ", "of the ",
    "A:\n", "A, B, ", "--- ", "---", "|-", "^ ", "^{ ", "1,000", ",000",
    "the answer : ", "choices ",
    "digit is ", "A is a cube, B is a ball. ", "、", "Choices: ",
)  # fmt: skip


def _fill(piece: str, size: int, start: str, end: str) -> str:
    return f"{start}{(piece * (size // len(piece) + 1))[:size]}{end}"


def _problem(text: str, answer: str = "B", choices: tuple[str, ...] = ()) -> Problem:
    return Problem("1", (b"",), text, answer, choices)


def _of_a_choice(text: str) -> None:
    """As a choice, of which all that is asked is asked."""
    choices = (text.strip() or "x", "y", "z")
    listed = "\n".join(f"{at}. {one}" for at, one in zip(ascii_uppercase, choices, strict=False))
    stored = _problem(f"<image>Which?\n{listed}", "B", choices)
    in_order(unaided(stored), order_of(unaided(stored), 1))
    shown_choices(stored)


def _of_a_text(text: str) -> None:
    """As the text of a problem, whose source may have choices besides."""
    for answer in ("b", text[-20:]):
        choices_of(_problem(text, answer))
    with suppress(BadChoice):
        with_choices(text, "B", (), show=False)
    for choices in (("x", "y"), (text[: len(text) // 2].strip() or "x", "y")):
        lists_choices(text, choices)
        without_choices(text, choices)
        in_another_order(text, choices, (1, 0))
        shown_choices(_problem(text, "y", choices))


def _of_a_scan(text: str) -> None:
    text = text[:MAX_SCAN_CHARACTERS]
    list(letters_told(text, 4))
    list(called_choices(text, ["A", "B"], 4))
    leak_in(text, text)
    lexemes(text)
    list(strange(text, "Which of the figures is a net?"))
    counted_in({"facts": text})


def _of_an_answer(text: str) -> None:
    for choices in ((), ("x", "y"), (text, "y")):
        grade_answer(text, "B", choices=choices)


def _masked(text: str) -> None:
    picture = _problem("<image>Which?\nChoices: A, B, C", "B", ("A", "B", "C"))
    mask_scan(text[:MAX_SCAN_CHARACTERS], picture, ["B"])


def _seconds(looked: Callable[[str], None], text: str) -> float:
    began = time.process_time()
    looked(text)
    return time.process_time() - began


@pytest.mark.parametrize("looked", [_of_a_choice, _of_a_text, _of_a_scan, _of_an_answer, _masked])
@pytest.mark.parametrize("piece", PIECES)
def test_what_looks_through_a_text_is_soon_done(looked: Callable[[str], None], piece: str) -> None:
    """From a few characters on, so that what doubles with each of them is seen before it hangs."""
    for start, end in (("", " zz"), ("(a) x", "y\n(b) z")):
        size = _SMALLEST
        while size <= _LARGEST:
            spent = _seconds(looked, _fill(piece, size, start, end))
            assert spent < _MOST_S, (piece, size, spent)
            size *= 2
