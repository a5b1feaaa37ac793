import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampled import group_of, rollout

from visual_r1.rl.advantages import grpo, has_contrast


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


rewards_lists = st.lists(st.floats(-10, 10), min_size=2, max_size=16)


@given(rewards_lists)
def test_advantages_have_mean_zero_and_population_std_one(rewards: list[float]) -> None:
    advantages = grpo(rewards)
    if any(advantages):
        assert math.fsum(advantages) == pytest.approx(0, abs=1e-5)
        assert math.fsum(a * a for a in advantages) / len(rewards) == pytest.approx(1, abs=1e-5)


@given(st.lists(st.integers(-10, 10).map(float), min_size=2, max_size=16), st.integers(1, 5))
def test_shift_and_scale_of_the_reward_do_not_matter(rewards: list[float], scale: int) -> None:
    assert grpo([scale * reward + 3 for reward in rewards]) == pytest.approx(grpo(rewards))


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
