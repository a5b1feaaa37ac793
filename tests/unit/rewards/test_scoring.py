import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_r1.config import PenaltySection, RewardSection
from visual_r1.data.problem import Problem
from visual_r1.grading import Grade
from visual_r1.rewards import COMPONENTS, Part, RewardInput, score, scoring
from visual_r1.rewards.scoring import length_penalty, repetition_penalty, truncation_penalty

PROBLEM = Problem("1", (b"",), "<image>Find angle C.", "62")
RIGHT = "<think>angle A reads 74, angle B reads 44. 180-118=62.</think><answer>62</answer>"
STANDARD = RewardSection()
DOCS = Path(__file__).parents[3] / "docs/rewards.md"


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
    assert scored.grade.reason == "no answer: the thought never ends"


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
    assert list(COMPONENTS) == list(RewardSection.table())
    others = {"rounding", "custom", "custom_weight"}
    assert set(COMPONENTS) == set(RewardSection.model_fields) - others


def test_the_docs_list_every_component_with_its_weight() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w.]+) \|", DOCS.read_text(), re.MULTILINE)
    weights = {name: f"{weight:g}" for name, weight in RewardSection().weights.items()}
    assert {name: weight.removesuffix(".0") for name, weight in rows} == weights | {
        "custom": "none"
    }


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-5, 5)), max_size=4),
    st.sampled_from([RIGHT, "no"]),
    st.booleans(),
)
def test_what_comes_on_top_is_a_part_as_well(
    more: list[tuple[float, float]], response: str, punished: bool
) -> None:
    scored = first = score(STANDARD, sample(response))
    reward = first.reward
    for place, (weight, value) in enumerate(more):
        scored = scored.plus(f"more_{place}", Part.of(weight, value))
        reward += weight * value
    if punished:  # a second pass that is not right: nothing earned, and something to pay
        scored = scored.plus("second_pass", Part(0.0, 1.0, -0.5))
        reward -= 0.5
    assert scored.reward == reward
    assert math.fsum(part.worth for part in scored.parts.values()) == pytest.approx(reward)
    values = {f"more_{place}": value for place, (_, value) in enumerate(more)}
    values |= {"second_pass": 0.0} if punished else {}
    assert scored.components == first.components | values
    assert scored.grade == first.grade


def test_penalties_cost_nothing_unless_they_are_asked_for() -> None:
    loop = sample(RIGHT, tokens=(1, 2) * 50, max_tokens=100, truncated=True)
    assert score(STANDARD, loop).reward == score(STANDARD, sample(RIGHT)).reward
    strict = RewardSection(length=0.5, truncation=0.25, repetition=2.0)
    penalty = PenaltySection(length_buffer=0.5, repetition_ngram=2)
    # 99 pairs of tokens, two different ones.
    expected = 1.6 - 0.5 - 0.25 - 2 * (1 - 2 / 99)
    assert score(strict, loop, penalty).reward == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (120, -1.0)],
)
def test_length_by_hand(tokens: int, expected: float) -> None:
    assert length_penalty(tokens, 100, 0.2) == pytest.approx(expected)


def test_dapos_own_numbers() -> None:
    # 16,384 tokens expected, a buffer of 4,096, so 20,480 at most.
    assert length_penalty(16_384, 20_480, 0.2) == 0.0
    assert length_penalty(18_432, 20_480, 0.2) == pytest.approx(-0.5)
    assert length_penalty(20_480, 20_480, 0.2) == -1.0


@given(st.integers(0, 5000), st.integers(0, 4096), st.floats(0.01, 1.0))
def test_a_longer_response_is_never_better(tokens: int, most: int, buffer: float) -> None:
    shorter, longer = (length_penalty(n, most, buffer) for n in (tokens, tokens + 1))
    assert -1.0 <= longer <= shorter <= 0.0


def test_truncation() -> None:
    assert (truncation_penalty(truncated=True), truncation_penalty(truncated=False)) == (-1, 0)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], 0.0),
        ([1], 0.0),
        ([1, 2], 0.0),
        ([1, 2, 3, 4], 0.0),
        ([1, 1, 1], -1 / 2),  # 11 11
        ([1, 2, 1, 2], -1 / 3),  # 12 21 12
        ([1, 2, 9, 1, 2], -1 / 4),
    ],
)
def test_repetition_by_hand(tokens: list[int], expected: float) -> None:
    assert repetition_penalty(tokens, 2) == pytest.approx(expected)


@given(
    st.lists(st.sampled_from([0, 1, 255, 256, 65_536, 2**24, 2**32, 2**40]), max_size=24),
    st.integers(1, 6),
)
def test_repetition_counts_the_ngrams_of_tokens_of_any_size(tokens: list[int], ngram: int) -> None:
    """Whose bytes may look alike where one ends and the next begins."""
    grams = [tuple(tokens[at : at + ngram]) for at in range(len(tokens) - ngram + 1)]
    expected = -(1.0 - len(set(grams)) / len(grams)) if grams else 0.0
    assert repetition_penalty(tokens, ngram) == expected


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(2, 6))
def test_saying_all_of_it_once_more_never_pays(tokens: list[int], ngram: int) -> None:
    once = repetition_penalty(tokens, ngram)
    assert -1.0 < once <= 0.0
    assert repetition_penalty(tokens + tokens, ngram) <= once


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


@pytest.mark.parametrize("digits", [8, 4300, 4301, 100_000])
@pytest.mark.parametrize("opening", ["&#", "&#x", "&#000"])
def test_numbers_of_any_length_end_no_run(opening: str, digits: int) -> None:
    said = sample(f"<think>{opening}{'1' * digits}</think><answer>62</answer>")
    scored = score(STANDARD, said)
    assert (scored.failure, scored.grade.verdict) == ("", "right")
    assert scored.components["format"] == 0.0  # no character has such a number


def test_where_the_grader_fails_the_sample_has_no_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Grade:
        raise ValueError("too many\ndigits")

    monkeypatch.setattr(scoring, "grade", broken)
    scored = score(STANDARD, sample(RIGHT))
    assert "the grader failed with ValueError: 'too many\\ndigits' (test_scoring" in scored.failure
    assert (scored.grade.verdict, scored.grade.reason) == ("gave_up", scored.failure)
    assert scoring.grade_of(STANDARD, sample(RIGHT)) == scored.grade
    assert set(scored.components) == set(COMPONENTS)


def test_where_a_component_fails_the_sample_has_no_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> float:
        raise IndexError("nowhere")

    monkeypatch.setattr(scoring, "visual_grounding", broken)
    scored = score(STANDARD, sample(RIGHT))
    assert "the component visual_grounding failed with IndexError: nowhere" in scored.failure
    assert scored.grade.right and set(scored.components) == set(COMPONENTS)


def test_a_full_memory_is_no_fault_of_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Grade:
        raise MemoryError

    monkeypatch.setattr(scoring, "grade", full)
    with pytest.raises(MemoryError):
        score(STANDARD, sample(RIGHT))
