import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_r1.rewards import format_ok, visual_grounding
from visual_r1.rewards.grounding import (
    COPIED_WORDS,
    FIGURE_WORDS,
    _common_pieces,  # pyright: ignore[reportPrivateUsage]
    not_copied,
)

WELL_FORMED = [
    "<think>t</think><answer>5</answer>",
    "  <think>t</think>\n\n<answer>5</answer>\n",
    "<think>if a<b and 3>2</think><answer>x < 5</answer>",
    "<think>a\nb\nc</think><answer>\n5\n</answer>",
]
ILL_FORMED = [
    "",
    "5",
    "<think>t</think>",
    "<answer>5</answer>",
    "<think></think><answer>5</answer>",
    "<think>t</think><answer></answer>",
    "<think>t</think><answer> \n </answer>",
    "<answer>5</answer><think>t</think>",
    "<think>t<answer>5</answer></think>",
    "<think>t</think><answer>5</answer> done",
    "so <think>t</think><answer>5</answer>",
    "<think>t</think> so <answer>5</answer>",
    "<think>t</think><answer>5</answer><answer>5</answer>",
    "<think>t</think><think>u</think><answer>5</answer>",
    "<think>t</think><answer>5",
    "<think>t<answer>5</answer>",
    "</think>t<think><answer>5</answer>",
    "<Think>t</Think><answer>5</answer>",
]


@pytest.mark.parametrize("response", WELL_FORMED)
def test_each_tag_once_in_order(response: str) -> None:
    assert format_ok(response)
    # The template may have written the first tag; then the model must not write it again.
    rest = response.strip().removeprefix("<think>")
    assert format_ok(rest, opens_think=True)
    assert not format_ok(rest)
    assert not format_ok(response, opens_think=True)


@pytest.mark.parametrize("response", ILL_FORMED)
def test_anything_else_is_no_format(response: str) -> None:
    assert not format_ok(response)


def test_other_tags_in_their_order() -> None:
    tags = ("scan", "think", "answer")
    assert format_ok("<scan>s</scan><think>t</think><answer>5</answer>", tags)
    assert not format_ok("<think>t</think><scan>s</scan><answer>5</answer>", tags)
    assert not format_ok("<think>t</think><answer>5</answer>", tags)
    assert not format_ok("<scan>s</scan><think>t</think><answer>5</answer>")


def thought(text: str) -> str:
    return f"<think>{text}</think><answer>62</answer>"


GROUNDED = [
    "angle A reads 74, angle B reads 44. 74+44=118. 180-118=62.",
    "width reads 29, height reads 35. 29+35=64. 64+64=128.",
    "top angle reads 41, bottom angle reads 48. 41+48=89.",
    "the triangle has a radius",
    "∠ABC is 30",
    "\\angle ABC and \\overline{BC}",
    "lines l and m are parallel",
    "Two CIRCLES touch; their radii are equal.",
    "m∠1 = 74° so the answer is 106°",
]
UNGROUNDED = [
    "74+44=118. 180-118=62.",
    "the angle is an angle of angles ∠",
    "I see the figure, the picture and the diagram.",
    "A and B and C are 5",
    "a rectangles-free quadrangle: triangled, angled, circled",
    "the square root of a square root",
    "the area, perimeter and length are 5",
    "",
]


@pytest.mark.parametrize("text", GROUNDED)
def test_two_things_of_the_figure_ground_a_thought(text: str) -> None:
    assert visual_grounding(thought(text), "Find x.") == 1.0
    assert visual_grounding(f"<scan>{text}</scan><think>so</think><answer>6</answer>", "?") == 1.0
    assert visual_grounding(thought(text)[len("<think>") :], "Find x.", opens_think=True) == 1.0
    # Outside of the tags it does not count.
    assert visual_grounding(f"{text}<think>so</think><answer>{text}</answer>", "?") == 0.0
    assert visual_grounding(f"<think>{text}", "Find x.") == 0.0


@pytest.mark.parametrize("text", UNGROUNDED)
def test_fewer_do_not(text: str) -> None:
    assert visual_grounding(thought(text), "Find x.") == 0.0


def test_what_was_copied_from_the_question_does_not_count() -> None:
    question = "Find angle ABC of the triangle with parallel sides."
    assert visual_grounding(thought(question), question) == 0.0
    assert visual_grounding(thought("FIND ANGLE ABC OF the Triangle, so 62"), question) == 0.0
    assert visual_grounding(thought("with parallel sides. I get 62"), question) == 1.0  # 3 words
    assert visual_grounding(thought(f"{question} The left arc is 40."), question) == 1.0


def test_what_was_copied_is_found_in_time_that_grows_with_the_text() -> None:
    question = ["find", "the", "measure", "of", "angle", "abc", "in", "triangle", *"abcdabcd"]
    assert not_copied(["angle", "abc"] * 3, question) == [True] * 6
    began = time.process_time()
    own = not_copied(["angle", "abc", "a", "b", "c", "d", "a", "b"] * 20_000, question)
    assert time.process_time() - began < 10  # 1 s; quadratic it would be hours
    assert own[:8] == [True, True, *[False] * 6]


@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=12))
def test_a_copy_goes_on_from_its_first_piece(words: list[str], question: list[str]) -> None:
    assert not_copied(words, question) == copied_piece_by_piece(words, question)


def copied_piece_by_piece(words: list[str], question: list[str]) -> list[bool]:
    """As it is defined: from every piece on, those that go on from it."""
    own = [True] * len(words)
    pieces = _common_pieces(words, question)
    for first, piece in enumerate(pieces):
        copy = [piece]
        for following in pieces[first + 1 :]:
            start, place, size = copy[-1]
            apart = (following[0] - start - size, following[1] - place - size)
            if set(apart) <= {0, 1}:
                copy.append(following)
        if sum(size for _, _, size in copy) >= max(min(COPIED_WORDS, len(question)), 3):
            for start, _, size in copy:
                own[start : start + size] = [False] * size
    return own


def test_shipped_solutions_are_grounded() -> None:
    from visual_r1.data.procedural import FAMILIES, generate

    families = set()
    for problem in generate(3, "validation", 90):
        families.add(problem.family)
        assert visual_grounding(thought(problem.meta["solution"]), problem.question) == 1.0
    assert families == set(FAMILIES)


def test_no_word_is_listed_twice() -> None:
    spellings = [s for thing, others in FIGURE_WORDS.items() for s in (thing, *others)]
    assert len(spellings) == len(set(spellings))


LONG = "Find the measure of angle C in the triangle ABC with the circle."


@pytest.mark.parametrize(
    "text",
    [
        " uh uh ".join(LONG.split()),
        " ".join(reversed(LONG.split())),
        "circle C, triangle ABC, so I find the angle",
        "Find (um) the (um) angle, (um) the triangle; the circle",
        "measure -> angle -> triangle -> circle",
        "angle ABC; triangle C; circle",
        "the circle with angle and the triangle, ABC in it",
        "Angles, triangles, circles, measures",
        "∠ △ ⊙",
        "\\triangle, \\odot; \\angle",
    ],
)
def test_the_questions_words_are_not_the_models_own_in_any_order_or_company(text: str) -> None:
    assert visual_grounding(thought(text), LONG) == 0.0
    # Beside them, what was seen counts.
    assert visual_grounding(thought(f"{text} The left arc is 40."), LONG) == 1.0


@pytest.mark.parametrize(
    "blank",
    ["\U0001d159", "\ufffc", "\u2800", "\u3164", "\u115f", "\uffa0", "\u0378", "\ue000", "\u202e",
     "\u2063", "\u034f", "\U000e0041", "\u00b7", "∠△", "🙂", "…", "= + =", "\u2422"],
)  # fmt: skip
def test_a_tag_without_a_letter_or_a_digit_is_empty(blank: str) -> None:
    assert not format_ok(f"<think>{blank}</think><answer>5</answer>")
    assert not format_ok(f"<think>t</think><answer>{blank}</answer>")
    assert format_ok(f"<think>{blank}六</think><answer>½</answer>")
