"""The answers of passes without the image are graded by the choices that they were shown."""

import pytest

from visual_r1.data.problem import Problem
from visual_r1.grading import grade_answer
from visual_r1.regrade.golds import Gold, gold_of

WORDS = ("acute", "right", "obtuse")
TEXT = "<image>Which?\nA. acute\nB. right\nC. obtuse"


def verdict(gold: Gold, answer: str, order: str | None) -> str:
    response = f"<think>a</think><answer>{answer}</answer>"
    stored = gold.of("scan_only", response, opens_think=False, order=order)
    return grade_answer(answer, stored.gold, choices=stored.choices).verdict


@pytest.mark.parametrize(
    ("order", "right"),
    [("CAB", "C"), ("BCA", "A"), ("ABC", "B"), ("", "B"), (None, "B")],
)
@pytest.mark.parametrize("choices", [WORDS, ()])
def test_a_letter_is_that_of_the_order_in_which_choices_were_shown(
    order: str | None, right: str, choices: tuple[str, ...]
) -> None:
    """None: of a file that says nothing of it, whose choices stood as they are."""
    gold = gold_of(Problem("1", (b"",), TEXT, "B", choices=choices))
    assert [one for one in "ABC" if verdict(gold, one, order) == "right"] == [right]


@pytest.mark.parametrize("name", ["greedy", "question_only", "scan_only"])
@pytest.mark.parametrize("order", ["", None, "CAB"])
@pytest.mark.parametrize("choices", [WORDS, ()])
def test_one_answer_is_graded_alike_in_each_view(
    name: str, order: str | None, choices: tuple[str, ...]
) -> None:
    text = "<image>Which?\n(a) acute (b) right (c) obtuse"
    gold = gold_of(Problem("1", (b"",), text, "B" if choices else "b", choices=choices))
    shown = gold.of(name, "<answer>right</answer>", opens_think=False, order=order)
    said = ("right", "acute", "obtuse")
    verdicts = [grade_answer(one, shown.gold, choices=shown.choices).verdict for one in said]
    assert verdicts == ["right", "wrong", "wrong"]


def test_what_a_person_said_is_the_answer_in_any_order() -> None:
    gold = gold_of(Problem("1", (b"",), TEXT, "B", choices=WORDS), "C")
    assert verdict(gold, "A", "CAB") == "right"


def test_numbers_that_only_the_text_lists_were_shown_by_versions_before() -> None:
    gold = gold_of(Problem("1", (b"",), "<image>Find C.\nA. 30\nB. 62", "B"))
    assert [verdict(gold, one, None) for one in ("B", "62", "A")] == ["right", "right", "wrong"]
    assert [verdict(gold, one, "") for one in ("B", "62")] == ["wrong", "right"]
