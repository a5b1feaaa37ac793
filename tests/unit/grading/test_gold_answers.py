"""What can be a gold answer, and gold answers in a wrapper."""

import pytest

from visual_r1.data.choices import with_choices
from visual_r1.grading import fault_of_gold, gold_text, grade, grade_answer


@pytest.mark.parametrize(
    ("wrapped", "gold"),
    [("<answer> 145° </answer>", "145°"), ("<answer>\\boxed{12}</answer>", "12"),
     ("<think>so</think><answer>B</answer>", "B"), ("145°", "145°"),
     ("<answer>3</answer><answer>4</answer>", "<answer>3</answer><answer>4</answer>")],
)  # fmt: skip
def test_a_gold_answer_is_taken_out_of_a_responses_wrapper(wrapped: str, gold: str) -> None:
    assert gold_text(wrapped) == gold


def test_a_wrapped_gold_answer_is_prepared_and_graded() -> None:
    assert with_choices("Find x.", "<answer> 145° </answer>", (), False)[1] == "145°"
    wrapped = "<answer>B</answer>"
    assert with_choices("Find x.", wrapped, ("30", "45"), True)[1] == "B"
    assert with_choices("Find x.", wrapped, ("30", "45"), False)[1] == "45"
    assert grade("<think>t</think><answer>145</answer>", "<answer> 145° </answer>").right
    assert not grade_answer("14", "<answer> 145° </answer>").right


@pytest.mark.parametrize(
    "gold",
    ["145°", "\\boxed{72}", "#### 72", "B", "菱形", "第2象限", "Wednesday", "the third quadrant",
     "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\triangle ABC \\cong \\triangle DEF", "3:00",
     "angles 2,3, 6, and 7", "$\\frac{7^3}{2^{12} 13^2}$", "\\{x \\mid x > 3\\}",
     "8\\sqrt{3}{squareinches}", "AB > CD"],
)  # fmt: skip
def test_these_are_gold_answers(gold: str) -> None:
    assert fault_of_gold(gold) is None
    assert grade_answer(gold, gold).right


@pytest.mark.parametrize(
    "gold",
    ["\\int_0^1 x", "5 = 6", "", " ", "<answer>3</answer><answer>4</answer>", "6?!=", "\\sqrt{",
     "1" * 500],
)  # fmt: skip
def test_these_are_not_and_a_reason_is_given(gold: str) -> None:
    assert fault_of_gold(gold)


def test_the_same_text_is_the_same_answer_whatever_it_is() -> None:
    for text in ("\\int_0^1 x", "第2象限", "Ромб", "House 4", "図のように"):
        assert grade_answer(text, text).right
    assert not grade_answer("\\int_0^2 x", "\\int_0^1 x").right
    assert not grade_answer("第3象限", "第2象限").right
