"""Multiple choice in the second pass: what is read, in which order, and what a letter tells."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from visual_r1.data.choices import choices_of, in_another_order
from visual_r1.data.problem import Problem
from visual_r1.grading import grade_answer
from visual_r1.rewards.blindfold.choices import (
    choices_asked,
    in_order,
    letters_tell,
    order_of,
    unaided,
)
from visual_r1.rewards.blindfold.masking import mask_scan
from visual_r1.rewards.blindfold.targets import is_value

WORDS = ("acute", "right", "obtuse", "straight")
LISTED = "<image>What kind of angle is B?\nChoices:\nA. acute\nB. right\nC. obtuse\nD. straight"


def problem(text: str = LISTED, answer: str = "B", **more: Any) -> Problem:
    return Problem("1", (b"",), text, answer, **({"choices": WORDS} | more))


@pytest.mark.parametrize("text", ["B", "(B)", "x", "$B$", "\\text{B}", "\\theta", "A_1", "AB"])
def test_a_letter_is_no_value(text: str) -> None:
    """It stays what it is when the figure's numbers move, and that gives nothing away."""
    assert not is_value(text)


@pytest.mark.parametrize("text", ["62", "\\pi", "2x", "x + 1", "5 cm", "x = 5", "3\\sqrt{2}"])
def test_numbers_and_expressions_are_values(text: str) -> None:
    assert is_value(text)


def test_the_same_seed_is_the_same_order_and_each_order_comes_as_often() -> None:
    orders = [order_of(problem(), seed) for seed in range(2400)]
    assert orders == [order_of(problem(), seed) for seed in range(2400)]
    # Where the right choice stands is as likely each place, its own too: a letter says nothing.
    places = Counter(order.index("B") for order in orders)
    assert len(set(orders)) == 24
    assert all(500 < places[place] < 700 for place in range(4)), places


def test_choices_stand_in_their_order_behind_the_letters_and_are_graded_so() -> None:
    shown = in_order(problem(), "CABD")
    listed = "A. obtuse\nB. acute\nC. right\nD. straight"
    assert shown.problem == f"<image>What kind of angle is B?\nChoices:\n{listed}"
    assert (shown.choices, shown.answer) == (("obtuse", "acute", "right", "straight"), "C")
    verdicts = {
        said: grade_answer(said, shown.answer, choices=choices_asked(shown)).verdict
        for said in ("B", "C", "right", "C. right", "acute")
    }
    assert verdicts == {
        "B": "wrong", "C": "right", "right": "right", "C. right": "right", "acute": "wrong",
    }  # fmt: skip
    # An answer by its text stays one.
    assert in_order(problem(answer="right"), "CABD").answer == "right"
    assert in_order(problem(), "") == problem()


@pytest.mark.parametrize(
    "text",
    [
        "<image>Which?\n(a) acute (b) right (c) obtuse (d) straight",
        "<image>Which? A: acute, B: right, C: obtuse, D: straight",
        "<image>Which?\n(A) acute\n(B) right\n(C) obtuse\n(D) straight",
        "<image>Which? A、acute B、right C、obtuse D、straight",
    ],
)
@pytest.mark.parametrize("answer", ["B", "(B)", "b", "right"])
def test_choices_that_only_the_text_lists_are_moved_too(text: str, answer: str) -> None:
    stored = problem(text, answer, choices=())
    assert choices_of(stored) == WORDS
    shown = in_order(stored, "BACD")
    assert shown.choices == ("right", "acute", "obtuse", "straight")
    swapped = text.replace("acute", "@").replace("right", "acute").replace("@", "right")
    assert shown.problem == swapped
    assert shown.answer == ("right" if answer == "right" else "A")
    assert not letters_tell(stored)


def test_where_the_text_lists_numbers_they_are_not_seen() -> None:
    stored = problem("<image>Find C.\n(a) 30\n(b) 62\n(c) 80", "b", choices=())
    alone = unaided(stored)
    assert (alone.problem, alone.answer, alone.choices) == ("<image>Find C.", "62", ())
    assert mask_scan("C is 62. Point B at (B). B", stored, ["b"]).text == (
        "C is [masked]. Point B at (B). B"
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<image>The angles are A: 65, B: 25. Find C.", "90"),
        ("<image>The angles are A: 65, B: 25. Find C.", "25"),
        ("<image>Find f(a) and b.", "a"),
    ],
)
def test_what_only_looks_like_choices_is_none(text: str, answer: str) -> None:
    assert choices_of(problem(text, answer, choices=())) == ()


@pytest.mark.parametrize(
    ("choices", "staying"),
    [
        (("acute", "right", "none of the above"), "C"),
        (("acute", "right", "both A and B"), "ABC"),
        (("acute", "right", "A and B only"), "ABC"),
        (("point A", "point B", "point C"), ""),
        (("A and B", "B and C", "A and C"), ""),  # points: no choice is left to speak of
        (("A", "B", "C"), "ABC"),  # in the picture
        (("above the line", "on it", "below the line"), ""),
    ],
)
def test_what_speaks_of_other_choices_stays(choices: tuple[str, ...], staying: str) -> None:
    """And then its letter tells."""
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip("ABC", choices, strict=True))
    if choices == ("A", "B", "C"):
        listed = "Choices: A, B, C"
    for letter in "ABC":
        stored = problem(f"<image>Which?\n{listed}", letter, choices=choices)
        assert letters_tell(stored) is (letter in staying), letter
        orders = {order_of(stored, seed) for seed in range(60)}
        if staying == "ABC":
            assert orders == {""}
        elif staying:
            assert {order.index(staying) for order in orders} == {"ABC".index(staying)}
        else:
            assert len(orders) == 6


def test_choices_that_are_listed_twice_stay() -> None:
    assert in_another_order(f"{LISTED}\n{LISTED}", WORDS, (1, 0, 2, 3)) is None


@pytest.mark.parametrize(
    "scan",
    [
        "Points A to D; angle B is 40, (B) is marked. B",
        "Vertices (A), (B) and (C). Label: B. Figure B",
    ],
)
def test_letters_of_the_figure_stay_where_choices_move(scan: str) -> None:
    hidden = problem("<image>Find x.", "62", choices=("30", "62", "80", "90"))
    for stored in (problem(), problem(answer="right"), hidden):
        assert mask_scan(scan, stored, [stored.answer]).text == scan
        # An answer that names a point is no choice where the problem shows none.
    assert "30" in mask_scan("angle A is 30", hidden, ["62", "A"]).text


PICTURED = problem("<image>Which one?\nChoices: A, B, C, D", choices=("A", "B", "C", "D"))


@pytest.mark.parametrize(
    "scan",
    [
        "Figure A is a cube, figure B a sphere, figure C a cone, figure D a ball.",
        "(A) a cube (B) a sphere (C) a cone (D) a ball",
        "A is a cube; in B there is a sphere.\nC has a corner. D: a ball.",
        "On the left A shows a cube, B a sphere. Below C shows a cone, D a ball.",
        "a cube in A, a sphere in B, a cone in C and a ball in D",
        "option A is a cube, option B a sphere, option C a cone, option D a ball",
        "A, B, C, D.",
        "Points A, B, C and D. Angle A is 40, angle B 50, angle C 60, angle D 210.",
        "figures (a), (b), (c), (d)",
        "the second side is AB; a circle after the square",
        "A triangle, and a cube. A large circle lies on AC.",
    ],
)
def test_a_label_in_the_picture_is_described(scan: str) -> None:
    assert mask_scan(scan, PICTURED, ["B"]).text == scan


@pytest.mark.parametrize(
    "noun", ["Shape", "Net", "View", "Solid", "Ring:", "Point", "Figure", "Quux", "The"]
)
@pytest.mark.parametrize("letter", "ABCD")
def test_a_letter_beside_any_noun_tells(noun: str, letter: str) -> None:
    """Here and where it is that of a choice that speaks of others."""
    none = ("acute", "right", "obtuse", "none of the above")
    listed = "\n".join(f"{at}. {text}" for at, text in zip("ABCD", none, strict=True))
    spoken = problem(f"<image>Which?\n{listed}", "D", choices=none)
    for stored in (replace(PICTURED, answer=letter), spoken):
        for said in (
            f"{noun} {letter}.",
            f"{noun} {letter} fits the hole",
            f"it is {noun} ({letter})",
        ):
            found = mask_scan(f"A drawing of lines. {said}", stored, [stored.answer]).text
            assert f"{letter}" not in found.removeprefix("A "), found


@pytest.mark.parametrize(
    ("scan", "masked"),
    [
        # What is missing tells as much as what is there.
        ("A is wrong, B is not, D is wrong", "@ is wrong, @ is not, @ is wrong"),
        (
            "Figure A, figure B fits, figure C, figure D.",
            "Figure @, figure @ fits, figure @, figure @.",
        ),
        ("A, **B**, C, D.", "@, **@**, @, @."),
        # Beyond the letters by which the scan goes through all.
        (
            "A a cube, B a ball, C a cone, D a net. Net B.",
            "A a cube, B a ball, C a cone, D a net. @.",
        ),
        ("B. Points A, B, C and D", "@. Points A, B, C and D"),
        ("Points A, C, B, C, D", "Points @, @, @, @, @"),
        ("Point B lies on AC. Angle B is 40.", "Point @ lies on AC. Angle @ is 40."),
        ("Figure A cuts, a and b", "Figure @ cuts, @ and @"),
        ("Shape II", "@"),
        ("Net ②.", "@."),
    ],
)
def test_letters_stay_where_a_scan_goes_through_all_of_them(scan: str, masked: str) -> None:
    found = mask_scan(scan, PICTURED, ["B"])
    assert found.text.replace("[masked]", "@") == masked
    assert mask_scan(found.text, PICTURED, ["B"]).text == found.text


def test_a_letter_is_an_answer_where_the_answer_is_called_by_it() -> None:
    assert mask_scan("Label: C.", PICTURED, ["B"]).text == "Label: [masked]."
    assert not mask_scan("Label: C. Point B of AB.", PICTURED, ["B"]).held_answer
    assert mask_scan("Label: C.", PICTURED, ["B", "C"]).held_answer
    assert mask_scan("Label: C.", PICTURED, ["B", "C"]).text == "[masked]."
    first = replace(PICTURED, answer="A")
    for said in ("a", "I", "It is a"):
        assert mask_scan(said, first, ["A"]).text == "[masked]"
