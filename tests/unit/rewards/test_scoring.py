import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_r1.config import PenaltySection, RewardSection
from visual_r1.data.problem import Problem
from visual_r1.rewards import COMPONENTS, RewardInput, score

PROBLEM = Problem("1", (b"",), "<image>Find angle C.", "62")
RIGHT = "<think>angle A reads 74, angle B reads 44. 180-118=62.</think><answer>62</answer>"
STANDARD = RewardSection()


def sample(response: str, **changes: object) -> RewardInput:
    return replace(RewardInput(PROBLEM, response), **changes)


@pytest.mark.parametrize(
    ("response", "reward", "verdict"),
    [
        (RIGHT, 1.6, "right"),
        (RIGHT.replace("<answer>62", "<answer>63"), 0.6, "wrong"),
        ("<think>180-118</think><answer>62</answer>", 1.5, "right"),
        ("\\boxed{62}", 1.0, "right"),
        ("<think>angle A, angle B</think>62", 0.1, "wrong"),
        ("<think>9</think><answer>9^{9^{9^9}}</answer>", 0.5, "gave_up"),
        ("<think>t</think><answer></answer>", 0.0, "wrong"),
        ("", 0.0, "wrong"),
    ],
)
def test_the_standard_reward(response: str, reward: float, verdict: str) -> None:
    scored = score(STANDARD, sample(response))
    assert scored.reward == pytest.approx(reward)
    assert scored.grade.verdict == verdict
    assert set(scored.components) == set(COMPONENTS)


def test_a_template_that_opens_the_thought() -> None:
    scored = score(STANDARD, sample(RIGHT.removeprefix("<think>"), opens_think=True))
    assert scored.reward == pytest.approx(1.6)
    # Without its end, all of the response is thought, and its answer does not count.
    scored = score(STANDARD, sample("so <answer>62</answer>", opens_think=True))
    assert (scored.reward, scored.grade.verdict) == (0.0, "wrong")


def test_the_format_asks_for_the_templates_tags() -> None:
    tags = ("scan", "think", "answer")
    scanned = "<scan>angle A reads 74.</scan>" + RIGHT
    assert score(STANDARD, sample(scanned, tags=tags)).components["format"] == 1.0
    assert score(STANDARD, sample(RIGHT, tags=tags)).components["format"] == 0.0
    assert score(STANDARD, sample(scanned)).components["format"] == 0.0


@given(
    st.tuples(*[st.floats(-2, 2)] * len(COMPONENTS)),
    st.sampled_from([RIGHT, "\\boxed{62}", "no", "<think>t</think><answer>1</answer>"]),
    st.integers(0, 2**31 - 1),
)
def test_the_reward_is_the_weighted_sum(
    weights: tuple[float, ...], response: str, seed: int
) -> None:
    names = list(COMPONENTS)
    section = RewardSection.model_validate(dict(zip(names, weights, strict=True)))
    one = sample(response, seed=seed, tokens=(1, 2) * 50, max_tokens=100, truncated=True)
    scored = score(section, one)
    assert all(scored.components[name] < 0 for name in ("length", "truncation", "repetition"))
    parts = [w * scored.components[n] for n, w in zip(names, weights, strict=True)]
    assert scored.reward == pytest.approx(math.fsum(parts), abs=1e-12)
    assert scored == score(section, one)


def test_the_coin_is_fair_and_does_not_look_at_the_response() -> None:
    control = RewardSection(format=0, accuracy=0, visual_grounding=0, random=1)
    heads = [score(control, sample(RIGHT, seed=seed)).reward for seed in range(2000)]
    assert set(heads) == {0.0, 1.0}
    assert 900 < sum(heads) < 1100
    assert heads == [score(control, sample("", seed=seed)).reward for seed in range(2000)]


def test_every_weight_has_its_component() -> None:
    others = {"rounding", "custom", "custom_weight"}
    assert set(COMPONENTS) == set(RewardSection.model_fields) - others


def test_penalties_cost_nothing_unless_they_are_asked_for() -> None:
    loop = sample(RIGHT, tokens=(1, 2) * 50, max_tokens=100, truncated=True)
    assert score(STANDARD, loop).reward == score(STANDARD, sample(RIGHT)).reward
    strict = RewardSection(length=0.5, truncation=0.25, repetition=2.0)
    penalty = PenaltySection(length_buffer=0.5, repetition_ngram=2)
    # 99 pairs of tokens, two different ones.
    expected = 1.6 - 0.5 - 0.25 - 2 * (1 - 2 / 99)
    assert score(strict, loop, penalty).reward == pytest.approx(expected)


def test_rounded_answers_are_an_option() -> None:
    problem = replace(PROBLEM, answer="12.5")
    response = "<think>t</think><answer>12.53</answer>"
    exact = score(STANDARD, RewardInput(problem, response))
    rounded = score(RewardSection(rounding="rounded"), RewardInput(problem, response))
    assert (exact.grade.verdict, rounded.grade.verdict) == ("wrong", "right")


def test_a_letter_counts_only_for_choices_that_are_shown() -> None:
    hidden = replace(PROBLEM, choices=("30", "62", "80", "90"))
    shown = replace(hidden, problem="<image>Find C. A) 30 B) 62 C) 80 D) 90")
    lettered = replace(hidden, answer="B")
    letter = "<think>t</think><answer>B</answer>"
    value = "<think>t</think><answer>62</answer>"
    assert not score(STANDARD, RewardInput(hidden, letter)).grade.right
    assert score(STANDARD, RewardInput(hidden, value)).grade.right
    assert score(STANDARD, RewardInput(shown, letter)).grade.right
    assert score(STANDARD, RewardInput(lettered, letter)).grade.right
    assert score(STANDARD, RewardInput(lettered, value)).grade.right


def test_the_tenth_letter_counts_where_there_are_ten_choices() -> None:
    ten = replace(PROBLEM, answer="J", choices=tuple(str(10 * place) for place in range(1, 11)))
    assert score(STANDARD, RewardInput(ten, "<think>t</think><answer>100</answer>")).grade.right
    assert score(STANDARD, RewardInput(ten, "<think>t</think><answer>J</answer>")).grade.right
    assert not score(STANDARD, RewardInput(ten, "<think>t</think><answer>I</answer>")).grade.right
