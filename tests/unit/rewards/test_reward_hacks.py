"""What a policy might try instead of answering, and what it gets for it."""

import time

import pytest

from visual_r1.config import RewardSection
from visual_r1.data.problem import Problem
from visual_r1.rewards import RewardInput, format_ok, score, visual_grounding

QUESTION = "In triangle ABC, angle A is 40 and side BC is tangent to the circle. Find angle C."
PROBLEM = Problem("1", (b"",), f"<image>{QUESTION}", "62")
STANDARD = RewardSection()

NO_FORMAT = {
    "zero-width thought": "<think>\u200b\u200b</think><answer>62</answer>",
    "soft hyphens": "<think>\u00ad</think><answer>62</answer>",
    "Hangul fillers": "<think>\u3164\u115f</think><answer>62</answer>",
    "blank Braille": "<think>\u2800</think><answer>62</answer>",
    "a mark without a letter": "<think>\u034f\u0301</think><answer>62</answer>",
    "dots": "<think>...</think><answer>62</answer>",
    "dash for an answer": "<think>so</think><answer> — </answer>",
    "zero-width outside": "<think>so</think>\u200b<answer>62</answer>",
    "Cyrillic tag": "<thіnk>so</thіnk><answer>62</answer>",
    "fullwidth tag": "＜think＞so＜/think＞<answer>62</answer>",
    "capitals": "<THINK>so</THINK><ANSWER>62</ANSWER>",
    "attribute": '<think id="1">so</think><answer>62</answer>',
    "space in the tag": "<think >so</think ><answer>62</answer>",
    "in a code block": "```\n<think>so</think><answer>62</answer>\n```",
    "the answer in the thought": "<think>so <answer>62</answer></think>",
    "and once more": "<think>so <answer>62</answer></think><answer>62</answer>",
    "the thought in the answer": "<answer><think>so</think>62</answer>",
    "crossed": "<think>so<answer></think>62</answer>",
    "two answers": "<think>so</think><answer>62</answer><answer>63</answer>",
    "closed twice": "<think>so</think></think><answer>62</answer>",
    "never closed": "<think>so</think><answer>62",
}


@pytest.mark.parametrize("response", NO_FORMAT.values(), ids=NO_FORMAT)
def test_no_format(response: str) -> None:
    assert not format_ok(response)


def test_a_thought_that_the_template_opened_is_not_opened_again() -> None:
    assert format_ok("so</think><answer>62</answer>", opens_think=True)
    for again in (
        "<think>so</think><answer>62</answer>",
        "</think><think>so</think><answer>62</answer>",
        "</think><answer>62</answer>",
        "\u200b</think><answer>62</answer>",
        "<answer>62</answer>",
    ):
        assert not format_ok(again, opens_think=True)


def test_the_models_own_thought_may_name_the_tags_and_no_other_may_follow() -> None:
    """A model that thinks says to itself what it was asked for."""
    asked = "The answer goes into <answer> </answer>, so: 62.</think>\n\n<answer>62</answer>"
    assert format_ok(asked, opens_think=True)
    scanned = "a <scan></scan> first</think><scan>ABC</scan><answer>62</answer>"
    assert format_ok(scanned, ("think", "scan", "answer"), opens_think=True)
    assert not format_ok(scanned, ("think", "answer"), opens_think=True)
    for other in (
        "so</think><think>and so</think><answer>62</answer>",
        "so</think><answer>62</think></answer>",
        "so</think>hm <answer>62</answer>",
        "so</think><answer>62</answer><answer>62</answer>",
    ):
        assert not format_ok(other, opens_think=True)
    # Outside of a thought of its own, a tag that is named twice is one too many.
    assert not format_ok(f"<think>{asked}")


def thought(text: str) -> str:
    return f"<think>{text}</think><answer>62</answer>"


COPIES = {
    "the question": QUESTION,
    "in capitals": QUESTION.upper(),
    "with other punctuation": QUESTION.replace(",", " -").replace(".", "!"),
    "one word changed": QUESTION.replace("angle A is 40", "corner A is 40"),
    "one word left out": QUESTION.replace("ABC, angle A", "ABC, A"),
    "words added": QUESTION.replace("angle A is", "angle A now is").replace("side", "my side"),
    "every third word changed": "In triangle so angle A so 40 and so BC is so to the",
    "twice": f"{QUESTION} {QUESTION}",
}


@pytest.mark.parametrize("text", COPIES.values(), ids=COPIES)
def test_the_question_is_not_the_figure(text: str) -> None:
    assert visual_grounding(thought(text), QUESTION) == 0.0


def test_a_short_question_is_not_the_figure_either() -> None:
    assert visual_grounding(thought("Find angle C."), "Find angle C.") == 0.0
    assert visual_grounding(thought("angle C, angle B"), "Find angle C.") == 1.0


ELSEWHERE = {
    "the answer": "<think>so</think><answer>angle A of the triangle</answer>",
    "a scan in the answer": "<think>so</think><answer><scan>angle A</scan>62</answer>",
    "a thought in the answer": "<answer><think>angle A, triangle</think>62</answer>",
    "after the answer": "<think>so</think><answer>62</answer><think>angle A, triangle</think>",
    "outside": "angle A <think>so</think> triangle <answer>62</answer>",
    "a tag never closed": "<scan>angle A, triangle",
    "a look-alike tag": "<thіnk>angle A, triangle</thіnk><answer>62</answer>",
}


@pytest.mark.parametrize("response", ELSEWHERE.values(), ids=ELSEWHERE)
def test_only_the_thought_and_the_scan_are_read(response: str) -> None:
    assert visual_grounding(response, "Find x.") == 0.0


WORDS_THAT_ARE_NONE = {
    "split by zero-width spaces": "an\u200bgle tri\u200bangle",
    "Cyrillic letters": "аnglе triаnglе",
    "parts of words": "angled triangulate encircle sidesaddle",
    "one word in all spellings": "angle Angles ANGLE ∠ \\angle",
    "talk about looking": "I look at the figure and see the picture, the image and the diagram",
}


@pytest.mark.parametrize("text", WORDS_THAT_ARE_NONE.values(), ids=WORDS_THAT_ARE_NONE)
def test_words_that_are_none(text: str) -> None:
    assert visual_grounding(thought(text), "Find x.") == 0.0


def test_more_words_earn_no_more() -> None:
    """A list of words passes, as the definition has it; all it can ever earn is the flat 0.1."""
    listed = "circle triangle square radius angle side " * 50
    wrong = f"<think>{listed}</think><answer>7</answer>"
    assert score(STANDARD, RewardInput(PROBLEM, wrong)).reward == pytest.approx(0.6)
    sentence = "<think>The circle touches the left side.</think><answer>7</answer>"
    assert score(STANDARD, RewardInput(PROBLEM, sentence)).reward == pytest.approx(0.6)


def test_a_wrong_answer_never_reaches_a_right_one() -> None:
    """All that can be had without the answer is less than the answer alone."""
    best_wrong = "<think>angle A of the circle</think><answer>61</answer>"
    bare_right = "62 is \\boxed{62}"
    wrong = score(STANDARD, RewardInput(PROBLEM, best_wrong)).reward
    assert wrong < score(STANDARD, RewardInput(PROBLEM, bare_right)).reward


@pytest.mark.parametrize(
    "inside",
    [
        "\\quad", "\\phantom{x}", "\\hspace{1cm}", "\\text{}", "\\boxed{ }", "\\frac{}{}", "\\n",
        "\\begin{align}\\end{align}", "&nbsp;", "&#8203;", "&zwnj;", "<br>", "<b></b>",
        "<!-- one\nline more -->", "<!-- no end", "![](figure)", "```python\n```", "\x1b[0m",
        "\U000e0041",
    ],
)  # fmt: skip
def test_markup_that_shows_as_nothing_is_no_content(inside: str) -> None:
    assert not format_ok(f"<think>{inside}</think><answer>5</answer>")
    assert not format_ok(f"<think>AB is 5</think><answer>{inside}</answer>")


@pytest.mark.parametrize(
    "inside",
    [
        "∞", "(−∞, ∞)", "∅", "Ⓑ", "🅱", "\\pi", "\\infty", "\\frac{1}{2}", "\\emptyset", "五", "①",
        "角A是74度", "มุม", "<b>7</b>", "```python\nprint(5)\n```", "\\text{yes}", "x < y > z",
        "\\boxed{\\text{B}}", "if a<b: print(a)", "\\neg",
    ],
)  # fmt: skip
def test_an_answer_of_one_sign_is_content(inside: str) -> None:
    assert format_ok(f"<think>{inside}</think><answer>{inside}</answer>")


def test_markup_is_looked_through_in_linear_time() -> None:
    for piece in ("<", "<a", "<!--", "{", "\\text{", "\\a{", "[ ", "![](", "```\n", "&", "\\a "):
        began = time.process_time()
        format_ok(f"<think>{piece * 20_000}</think><answer>5</answer>")
        assert time.process_time() - began < 1.0, piece
