import time

import pytest

from visual_r1.grading import extract_answer, grade

ANSWERED = {
    "<think>t</think><answer>12</answer>": "12",
    "<think>a\nb</think>\n<answer>\n 12.5 \n</answer>\n": "12.5",
    "<think>t</think><answer>\\boxed{12}</answer>": "12",
    "<think>t</think><answer>\\boxed{\\frac{1}{2}}</answer>": "\\frac{1}{2}",
    "<think>t</think> So it is \\boxed{\\frac{15}{2}}.": "\\frac{15}{2}",
    "\\boxed{7}": "7",
    "<answer>7</answer>": "7",
    # What stands in a thought does not count, whatever tags it holds.
    "<think>maybe <answer>5</answer>, \\boxed{4}</think><answer>6</answer>": "6",
    "<think>is it <think>? yes</think><answer>6</answer>": "6",
    "<think>a</think> so <think>b</think><answer>6</answer>": "6",
    "<think>a <think>b</think> c</think><answer>6</answer>": "6",
    # The template had opened <think> already.
    "so <answer>5</answer>?</think><answer>6</answer>": "6",
    "<scan>angle A reads 40</scan><think>t</think><answer>6</answer>": "6",
    # An \boxed{} beside an <answer> is not looked at.
    "<think>t</think>\\boxed{5}<answer>6</answer>": "6",
    "<answer>\\boxed{5}\\boxed{6}</answer>": "\\boxed{5}\\boxed{6}",
}
UNANSWERED = [
    "",
    "no idea",
    "<think>5</think>",
    "<think>t</think>5",
    "<think>so <answer>5</answer>",
    "<think>t</think><answer>5",
    "<think>t</think><answer></answer>",
    "<think>t</think><answer> \n</answer>",
    "<think>t</think><answer>5</answer><answer>5</answer>",
    "<answer><answer>5</answer></answer>",
    "</answer>5<answer>",
    "<think>t</think>\\boxed{5} or \\boxed{6}",
    "<think>t</think>\\boxed{5",
    "<think>t</think><answer>5 \\boxed{6}",
    # An answer before the thought, or between two, is not after it.
    "<answer>5</answer><think>t</think>",
    "<think>a <think>b</think><answer>5</answer></think>",
    "<answer>5</answer><think>t</think><answer>6</answer>",
    "<think>a</think><answer>5</answer></think><answer>6</answer>",
]


@pytest.mark.parametrize(("response", "answer"), ANSWERED.items())
def test_the_one_answer_is_found(response: str, answer: str) -> None:
    assert extract_answer(response) == answer


@pytest.mark.parametrize("response", UNANSWERED)
def test_no_answer_or_more_than_one_is_none(response: str) -> None:
    assert extract_answer(response) is None
    graded = grade(response, "5")
    assert (graded.verdict, graded.right) == ("wrong", False)
    assert "no answer" in graded.reason


@pytest.mark.parametrize(
    "response",
    [
        "<think>" * 50_000,
        "<think></think>" * 50_000,
        "<think>t</think><answer>5</" + "answer><" * 50_000 + "answer>",
        "<think>t</think>" + "\\boxed{" * 50_000 + "5",
        "\\boxed{" + "{" * 100_000,
        "<answer>" + "\\boxed{" * 50_000 + "5" + "}" * 50_000 + "</answer>",
        "<answer>" + " " * 500_000 + "</answer>",
        "</think>" * 50_000,
    ],
    ids=lambda text: text[:24],
)
def test_long_responses_take_linear_time(response: str) -> None:
    began = time.process_time()
    assert grade(response, "5").verdict != "right"
    assert time.process_time() - began < 1
