import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampled import group_of, rollout

from visual_r1.config import RunConfig
from visual_r1.policy.policy import Rollout, RolloutGroup
from visual_r1.rewards import Part
from visual_r1.rl.advantages import (
    ADVANTAGES,
    advantages_of,
    dr_grpo,
    gdpo,
    grpo,
    has_contrast,
    rloo,
)

Advantage = Callable[[list[float]], list[float]]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 0.0], [1.0, -1.0]),
        ([1.0, 0.0, 0.0, 0.0], [math.sqrt(3), *[-1 / math.sqrt(3)] * 3]),
        ([1.6, 0.6, 0.5, 0.1], [1.6296, -0.1811, -0.3621, -1.0864]),
        ([0.5, 0.5, 0.5], [0.0, 0.0, 0.0]),
        ([0.5, 0.5 + 1e-9], [0.0, 0.0]),
        ([], []),
    ],
)
def test_grpo_by_hand(rewards: list[float], expected: list[float]) -> None:
    assert grpo(rewards) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("rewards", "centred", "left_out"),
    [
        ([1.0, 0.0], [0.5, -0.5], [1.0, -1.0]),
        ([1.0, 0.0, 0.0, 0.0], [0.75, -0.25, -0.25, -0.25], [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ([1.6, 0.6, 0.5, 0.1], [0.9, -0.1, -0.2, -0.6], [1.2, -0.4 / 3, -0.8 / 3, -0.8]),
        ([0.1 + 0.2, 0.3, 0.3], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([0.7], [0.0], [0.0]),
        ([], [], []),
    ],
)
def test_the_others_by_hand(
    rewards: list[float], centred: list[float], left_out: list[float]
) -> None:
    assert dr_grpo(rewards) == pytest.approx(centred)
    assert rloo(rewards) == pytest.approx(left_out)


rewards_lists = st.lists(st.floats(-10, 10), min_size=2, max_size=16)
whole_rewards = st.lists(st.integers(-10, 10).map(float), min_size=2, max_size=16)
each_advantage = pytest.mark.parametrize("advantage", ADVANTAGES.values(), ids=ADVANTAGES)


@given(rewards_lists)
def test_grpo_has_mean_zero_and_population_std_one(rewards: list[float]) -> None:
    advantages = grpo(rewards)
    if any(advantages):
        assert math.fsum(advantages) == pytest.approx(0, abs=1e-5)
        assert math.fsum(a * a for a in advantages) / len(rewards) == pytest.approx(1, abs=1e-5)


@each_advantage
@given(rewards=rewards_lists)
def test_all_sum_to_zero_and_keep_the_order(advantage: Advantage, rewards: list[float]) -> None:
    advantages = advantage(rewards)
    assert math.fsum(advantages) == pytest.approx(0, abs=1e-5)
    ordered = sorted(range(len(rewards)), key=rewards.__getitem__)
    assert all(advantages[low] <= advantages[high] + 1e-9 for low, high in pairwise(ordered))


@each_advantage
@given(rewards=whole_rewards, shift=st.integers(-5, 5))
def test_a_shift_of_the_reward_does_not_matter(
    advantage: Advantage, rewards: list[float], shift: int
) -> None:
    assert advantage([r + shift for r in rewards]) == pytest.approx(advantage(rewards))


@given(whole_rewards, st.integers(1, 5))
def test_scale_matters_to_all_but_grpo(rewards: list[float], scale: int) -> None:
    scaled = [scale * reward for reward in rewards]
    assert grpo(scaled) == pytest.approx(grpo(rewards))
    assert dr_grpo(scaled) == pytest.approx([scale * a for a in dr_grpo(rewards)])
    assert rloo(scaled) == pytest.approx([scale * a for a in rloo(rewards)])


@given(rewards_lists)
def test_leaving_one_out_is_a_factor(rewards: list[float]) -> None:
    count = len(rewards)
    others = [
        r - math.fsum(rewards[:i] + rewards[i + 1 :]) / (count - 1) for i, r in enumerate(rewards)
    ]
    assert rloo(rewards) == pytest.approx(others, abs=1e-6)


def config(advantage: str = "grpo", **sections: Any) -> RunConfig:
    algorithm = {"advantage": advantage, **sections.pop("algorithm", {})}
    return RunConfig.model_validate({"algorithm": algorithm, **sections})


def scored(format_ok: float, accuracy: float, **more: Any) -> Rollout:
    parts = {"format": format_ok, "accuracy": accuracy, "visual_grounding": 0.0}
    verdict = "right" if accuracy else "wrong"
    return rollout(0.5 * format_ok + accuracy, verdict, components=parts, **more)


def test_gdpo_by_hand() -> None:
    # format 1 0 1 0, accuracy 1 1 0 0: each component's grpo is ±1, its weight ½ or 1; the std
    # of ±1.5 and ±0.5 is √1.25.
    group = group_of(scored(1, 1), scored(0, 1), scored(1, 0), scored(0, 0))
    [found] = advantages_of([group], config("gdpo"))
    assert found == pytest.approx([v / math.sqrt(1.25) for v in (1.5, 0.5, -0.5, -1.5)])


@pytest.mark.parametrize("right", [[1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
def test_gdpo_takes_what_cancels_for_nothing(right: list[int]) -> None:
    """Two components speak against each other with equal weight: what is left is rounding."""
    parts = [{"accuracy": Part.of(1.0, one), "format": Part.of(1.0, 1 - one)} for one in right]
    assert gdpo(parts) == [0.0] * len(right)


def test_gdpo_keeps_apart_what_the_sum_makes_the_same() -> None:
    # Both groups have two samples with one reward and two with another, so grpo has ±1 in both.
    # One of them differs in both components, the other in accuracy alone.
    both = group_of(*[scored(1, 1)] * 2, *[scored(0, 0)] * 2)
    one = group_of(*[scored(1, 1)] * 2, *[scored(1, 0)] * 2)
    plain = advantages_of([both, one], config("grpo"))
    assert plain[0] == pytest.approx(plain[1])
    apart = advantages_of([both, one], config("gdpo"))
    assert apart[0][0] == pytest.approx(1.5 * apart[1][0])
    every = [value for group in apart for value in group]
    assert math.fsum(v * v for v in every) / len(every) == pytest.approx(1)


def test_gdpo_leaves_out_what_has_no_weight_and_counts_what_is_punished() -> None:
    strict = {"format": 0.0, "accuracy": -1.0}
    group = group_of(scored(1, 1, weights=strict), scored(0, 0, weights=strict))
    [found] = advantages_of([group], config("gdpo"))
    assert found == pytest.approx([-1, 1])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=8))
def test_linear_advantages_are_the_same_by_component(samples: list[tuple[bool, bool]]) -> None:
    group = [scored(float(a), float(b)) for a, b in samples]
    parts = [one.scored.parts for one in group]
    for advantage in (dr_grpo, rloo):
        by_part = [advantage([p[name].worth for p in parts]) for name in parts[0]]
        summed = [math.fsum(values) for values in zip(*by_part, strict=True)]
        whole = advantage([one.scored.reward for one in group])
        assert summed == pytest.approx(whole, abs=1e-9)


def test_gdpo_adds_the_second_pass_last_whenever_it_was_paid() -> None:
    rng = random.Random(3)

    def group(order: Sequence[str]) -> RolloutGroup:
        found: list[Rollout] = []
        for values in samples:
            one = scored(float(values[0] > 0), float(values[1] > 0))
            parts = {name: Part.of(0.7, value) for name, value in zip(names, values, strict=True)}
            for name in order:
                one = replace(one, scored=one.scored.plus(name, parts[name]))
            found.append(one)
        return group_of(*found)

    names = ("custom", "kl", "second_pass")
    for _ in range(20):
        samples = [[rng.gauss(0, 1) for _ in names] for _ in range(8)]
        early, late = (group(order) for order in (("custom", "second_pass", "kl"), names))
        settings = config("gdpo")
        assert advantages_of([early], settings) == advantages_of([late], settings)


@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo", "rloo", "gdpo"])
def test_groups_without_contrast_are_skipped_or_not(advantage: str) -> None:
    mixed = group_of(scored(1, 1), scored(1, 0))
    format_alone = group_of(scored(1, 0), scored(0, 0))
    alike = group_of(scored(1, 1), scored(1, 1))
    groups = [mixed, format_alone, alike]
    skipping = config(advantage, train={"skip_without_contrast": True})
    first, second, third = advantages_of(groups, skipping)
    assert first[0] > 0 > first[1]
    assert (second, third) == ([0, 0], [0, 0])
    assert advantages_of(groups, config(advantage))[1][0] > 0
    assert advantages_of([alike, group_of(failed=4)], config(advantage)) == [[0, 0], []]


def test_masked_truncation_stays_in_the_baseline() -> None:
    group = group_of(scored(1, 1), scored(1, 0), scored(0, 0, stop_reason="length"))
    [plain] = advantages_of([group], config())
    [masked] = advantages_of([group], config(algorithm={"mask_truncated": True}))
    assert masked == [*plain[:2], 0.0]
    assert plain[2] < 0


def test_contrast_is_of_correctness_never_of_the_shaped_reward() -> None:
    format_alone = group_of(rollout(0.5, "wrong"), rollout(0.0, "wrong"))
    both = group_of(rollout(0.5, "right"), rollout(0.5, "wrong"))
    assert not has_contrast(format_alone)
    assert has_contrast(both)


def test_a_grade_that_gave_up_counts_as_not_right() -> None:
    assert not has_contrast(group_of(rollout(0, "wrong"), rollout(0, "gave_up")))
    assert has_contrast(group_of(rollout(1, "right"), rollout(0, "gave_up")))


def test_a_group_that_failed_has_no_contrast() -> None:
    assert not has_contrast(group_of(failed=4))
    assert not has_contrast(group_of(rollout(1, "right"), failed=3))
