import json
import math
from dataclasses import replace
from typing import Any

import pytest
from sampled import group_of, rollout

from visual_r1.config import RunConfig
from visual_r1.prices import NO_PRICES, Prices, Tokens
from visual_r1.rl.learning import Update
from visual_r1.rl.metrics import StepMetrics, StepTimer, step_metrics

CONFIG = RunConfig(preset="quickstart")


def took(sample: float, train: float) -> StepTimer:
    timer = StepTimer()
    timer.add("sample", sample)
    timer.add("train", train)
    return timer


def summary(*groups: Any, update: Update | None = None, prices: Prices = NO_PRICES) -> StepMetrics:
    seconds = took(1.23456, 2.0).row()
    return step_metrics(CONFIG, 7, groups, [], update, seconds=seconds, prices=prices)


def test_a_step_by_hand() -> None:
    first = group_of(
        rollout(1.6, "right", tokens=[1, 2], components={"format": 1, "accuracy": 1}),
        rollout(0.6, "wrong", tokens=[1] * 6, components={"format": 1, "accuracy": 0}),
    )
    second = group_of(
        rollout(0.0, "gave_up", tokens=[1] * 8, components={"format": 0, "accuracy": 0}),
        rollout(0.2, "wrong", tokens=[1] * 4, stop_reason="length"),
        failed=2,
    )
    row = summary(first, second, update=Update(-3.0, 0.5, 1e-7, 1.01, 0.99)).row()
    assert row["step"] == 7
    assert row["updated"] is True
    assert row["reward_mean"] == pytest.approx(0.6)
    assert row["reward_std"] == pytest.approx(math.sqrt((1 + 0 + 0.36 + 0.16) / 4))
    assert row["reward_accuracy"] == pytest.approx((1 + 0 + 0 + 0.2) / 4)
    deviation = math.sqrt((0.7**2 + 2 * 0.3**2 + 0.1**2) / 4)
    assert row["reward_accuracy_std"] == pytest.approx(deviation)
    assert row["reward_format_std"] == pytest.approx(math.sqrt(0.75 * 0.25))
    assert row["format_rate"] == row["reward_format"] == 0.75
    assert row["accuracy"] == 0.25
    assert (row["gave_up"], row["failed"], row["groups"]) == (1, 2, 2)
    assert (row["response_tokens_mean"], row["response_tokens_max"]) == (5, 8)
    assert row["truncated_share"] == 0.25
    assert (row["prompt_tokens"], row["sampled_tokens"]) == (18, 20)
    assert (row["loss"], row["grad_norm"]) == (-3.0, 0.5)
    assert row["seconds_sample"] == 1.235


def test_entropy_is_a_mean_over_tokens_not_over_responses() -> None:
    # rollout() gives its tokens the log-probabilities -0.5, -0.75, -1 …
    short, long = rollout(tokens=[1]), rollout(tokens=[1, 2, 3])
    assert summary(group_of(short, long)).row()["entropy"] == pytest.approx(2.75 / 4)
    assert summary(group_of(rollout(tokens=[]))).row()["entropy"] is None


def test_a_step_without_an_update_says_so() -> None:
    row = summary(group_of(rollout())).row()
    assert row["updated"] is False
    assert row["loss"] is row["grad_norm"] is row["kl_sampler_learner"] is None
    assert row["clip_share"] is row["off_policy_clip_share"] is None


def test_where_nothing_came_back_there_are_no_means() -> None:
    row = summary(group_of(failed=8)).row()
    assert row["reward_mean"] is row["accuracy"] is row["response_tokens_max"] is None
    assert row["failed"] == 8
    assert json.loads(json.dumps(row)) == row


def test_only_seconds_may_differ_between_two_runs_of_a_step() -> None:
    group = group_of(rollout())
    names = [
        step_metrics(CONFIG, 0, [group], [], None, seconds=timer.row())
        for timer in (took(1, 2), took(4, 5))
    ]
    one, other = (metrics.row() for metrics in names)
    differing = {name for name in one if one[name] != other[name]}
    assert differing == {"seconds_sample", "seconds_train", "seconds_total"}


def test_seconds_are_told_by_phase() -> None:
    timer = took(1, 2)
    timer.add("kl", 0.25)
    timer.add("kl", 0.5)
    with pytest.raises(KeyError), timer.during("prompts"):
        raise KeyError
    assert timer.seconds["prompts"] > 0
    row = timer.row()
    assert row["seconds_total"] == 3
    assert set(row) == {
        f"seconds_{name}"
        for name in ("sample", "sampler", "prompts", "first_pass", "second_pass", "kl", "grading",
                     "train", "total")
    }  # fmt: skip
    assert (row["seconds_kl"], row["seconds_second_pass"]) == (0.75, 0.0)


def test_all_that_was_asked_for_is_paid() -> None:
    first = replace(group_of(rollout(tokens=[1, 2])), spent=Tokens(100, 40))
    lost = replace(group_of(failed=4), spent=Tokens(10, 8))
    update = Update(0, 0, 0, 1, 1, tokens=Tokens(5, 0, 300))
    metrics = summary(first, lost, update=update, prices=Prices(1.0, 10.0, 100.0))
    row = metrics.row()
    tokens = (row["tokens_prefill"], row["tokens_sampled"], row["tokens_trained"])
    assert tokens == (115, 48, 300)
    assert row["sampled_tokens"] == 2
    assert row["cost_usd"] == pytest.approx((115 + 480 + 30_000) / 1e6)
    assert summary(first, lost, update=update).row()["cost_usd"] is None
