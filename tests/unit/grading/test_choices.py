"""Multiple choice: the place of a choice counts before its value."""

import pytest

from visual_r1.grading import choice_named, grade_answer

ROUNDED = ["3.4", "3.46", "3.5", "4"]
HALVES = ["1/2", "0.5", "50%"]
TWICE = ["3", "7", "18", "18"]
TIMES = ["1:15", "2:30", "3:45"]
VALUES = ["30", "45", "3\\sqrt{5}", "120"]
FIGURES = ["菱形", "正方形"]
ORDERS = ["blue > purple", "purple > blue"]
ORDERED = ["1,2,3,4,5", "$2,1,3,5,4$", "2,1,5,3,4"]
DEGREES = ["30°", "40°", "50°", "60°"]
PICTURES = ["A", "B", "C", "D", "E"]
OTHERWISE = ["1", "2", "3", "None of these"]

RIGHT = [
    ("3.46", "B", ROUNDED), ("B", "3.46", ROUNDED), ("1/2", "A", HALVES), ("50%", "C", HALVES),
    # Choices with one text are one choice.
    ("C", "D", TWICE), ("18", "D", TWICE),
    ("1:15", "A", TIMES), ("6.71", "C", VALUES), ("3√5", "C", VALUES), ("(c)", "3√5", VALUES),
    ("菱形", "A", FIGURES), ("purple > blue", "B", ORDERS), ("B. purple > blue", "B", ORDERS),
    ("None of these", "D", OTHERWISE), ("D. None of these", "D", OTHERWISE),
    ("The rhombus.", "A", ["Rhombus", "Square"]), ("**A. 5 cm**", "A", ["5 cm", "6 cm"]),
    ("2, 1, 3, 5, 4", "B", ORDERED), ("40° (B)", "B", DEGREES), ("40° (option B)", "B", DEGREES),
    ("B、40°", "B", DEGREES), ("B\n40°", "B", DEGREES), ("B选项", "B", DEGREES),
    ("The answer is option (B).", "B", DEGREES),
    ("1.06", "B", ["\\textdollar 0.40", "\\textdollar 1.06"]),
    ("B, because the slope is 2", "B", ["1", "2", "3"]), ("5", "A", ["5 cm", "6 cm"]),
]  # fmt: skip
WRONG = [
    ("C", "3.46", ROUNDED), ("3.5", "3.46", ROUNDED), ("3.5", "B", ROUNDED), ("4.0", "B", ROUNDED),
    ("0.5", "1/2", HALVES), ("B", "A", HALVES), ("2/4", "A", HALVES),
    ("7", "D", TWICE), ("A", "D", TWICE),
    ("2:30", "1:15", TIMES), ("B", "1:15", TIMES), ("3:45", "A", TIMES),
    ("C. 45", "C", VALUES), ("45", "C", VALUES), ("B", "A", FIGURES), ("正方形", "A", FIGURES),
    ("E", "A", ["1", "2"]), ("5 cm", "A", ["5", "5 cm", "6"]), ("A or B", "A", VALUES),
    ("2, 1, 3, 5, 4", "C", ORDERED), ("5, 4, 3, 2, 1", "A", ORDERED),
    ("A cycloid with cusps", "A", PICTURES), ("A circle", "A", PICTURES),
    ("40° (C)", "B", DEGREES), ("40° (C)", "C", DEGREES), ("40° (not B)", "B", DEGREES),
    ("B、50°", "B", DEGREES), ("B\n50°", "B", DEGREES), ("B\n40°\n50°", "B", DEGREES),
    ("B\nC", "B", DEGREES), ("排除B", "B", DEGREES), ("B选项错误", "B", DEGREES),
    ("blue > purple", "B", ORDERS), ("6:00", "A", ["3:00", "6:00"]),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold", "choices"), RIGHT)
def test_the_choice_that_is_the_gold_one(answer: str, gold: str, choices: list[str]) -> None:
    assert grade_answer(answer, gold, "rounded", choices=choices).right


@pytest.mark.parametrize(("answer", "gold", "choices"), WRONG)
def test_another_choice_is_wrong_whatever_it_comes_to(
    answer: str, gold: str, choices: list[str]
) -> None:
    for rounding in ("exact", "rounded"):
        assert not grade_answer(answer, gold, rounding, choices=choices).right


def test_every_text_and_letter_names_its_own_choice() -> None:
    for choices in (ROUNDED, HALVES, TIMES, VALUES, FIGURES, ORDERS, OTHERWISE):
        for place, text in enumerate(choices):
            gold = "ABCDEFGH"[place]
            for other, said in enumerate(choices):
                for answer in (said, "ABCDEFGH"[other]):
                    graded = grade_answer(answer, gold, "rounded", choices=choices)
                    assert graded.right == (place == other), (choices, text, answer, graded)


def test_a_letter_alone_names_a_place() -> None:
    assert choice_named("(B)") == 1
    assert choice_named("J") is None
    assert choice_named("J", [str(n) for n in range(10)]) == 9
