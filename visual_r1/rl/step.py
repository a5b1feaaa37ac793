"""One GRPO step: sample, grade, advantages, datums, forward_backward + optim_step.

Plain GRPO as Tinker's losses allow it: advantages by group (mean and population std), token-level
sums without length normalisation, no KL term; the loss is `train.loss` (importance sampling by
default), with the sampler's log-probabilities as the old policy.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tinker

from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.errors import BackendError, RunError
from visual_r1.remote import SAVE_LIMIT_S, TRAIN_LIMIT_S, wait
from visual_r1.rl.advantages import grpo, has_contrast
from visual_r1.rl.datums import Floats, answer_part, datum, with_prompt_logprobs
from visual_r1.rl.losses import loss_of
from visual_r1.rl.metrics import Seconds, StepMetrics, Update, learner_agreement, summarize
from visual_r1.rl.rollouts import Policy, Rollout, RolloutGroup
from visual_r1.rl.sampling import sample_groups


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """A rollout with the advantage it was given (0 where it or its group was left out)."""

    rollout: Rollout
    advantage: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step leaves behind: its metrics, and its samples by (group, sample)."""

    metrics: StepMetrics
    rollouts: tuple[ScoredRollout, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One datum and where it came from."""

    group: RolloutGroup
    rollout: Rollout
    datum: tinker.Datum


def train_step(
    training: tinker.TrainingClient, policy: Policy, problems: Sequence[Problem], step: int
) -> StepResult:
    """Run one step on `problems`, the batch of this step.

    A fresh sampler is made of the current weights. Where no group has contrast, neither
    forward_backward nor optim_step is sent and the metrics say `updated: false`. Raises
    `BackendError` when the server fails, `RunError` when loss or gradient are not finite; the
    weights on the server are then not to be used any further.
    """
    began = time.monotonic()
    saving = training.save_weights_and_get_sampling_client()
    sampler = wait(saving, f"the sampler of step {step}", SAVE_LIMIT_S, policy.watch)
    groups = sample_groups(sampler, policy, problems, step)
    sampled = time.monotonic()

    advantages = [advantages_of(group, policy.config) for group in groups]
    examples = [
        Example(group, rollout, datum(group, rollout, advantage))
        for group, advantages_G in zip(groups, advantages, strict=True)
        if any(advantages_G)
        for rollout, advantage in zip(group.rollouts, advantages_G, strict=True)
        if rollout.tokens
    ]
    update = send_update(training, policy, examples, step) if examples else None
    ended = time.monotonic()

    metrics = summarize(
        step,
        groups,
        update,
        without_contrast=sum(not has_contrast(group) for group in groups),
        datums=len(examples),
        learning_rate=policy.config.train.learning_rate,
        seconds=Seconds(sampled - began, ended - sampled, ended - began),
    )
    return StepResult(
        metrics,
        tuple(
            scored
            for group, advantages_G in zip(groups, advantages, strict=True)
            for scored in _with_advantages(group, advantages_G)
        ),
    )


def _with_advantages(group: RolloutGroup, advantages_G: Sequence[float]) -> list[ScoredRollout]:
    """All samples of the group in their order, also those that could not be scored."""
    scored = [
        ScoredRollout(rollout, advantage)
        for rollout, advantage in zip(group.rollouts, advantages_G, strict=True)
    ]
    scored += [ScoredRollout(rollout, 0.0) for rollout in group.unscored]
    return sorted(scored, key=lambda one: one.rollout.sample)


def advantages_of(group: RolloutGroup, config: RunConfig) -> list[float]:
    """The group's G advantages; zeros where it is skipped for lack of contrast."""
    if config.train.skip_without_contrast and not has_contrast(group):
        return [0.0] * len(group.rollouts)
    return grpo([rollout.scored.reward for rollout in group.rollouts])


def send_update(
    training: tinker.TrainingClient, policy: Policy, examples: Sequence[Example], step: int
) -> Update:
    """One forward_backward and one optim_step, sent back to back, then both awaited."""
    config = policy.config
    loss = loss_of(config.train)
    data = [example.datum for example in examples]
    if loss.counts_prompt:
        forward = training.forward(data, loss.name, loss.config)
        ahead = wait(forward, f"forward of step {step}", TRAIN_LIMIT_S, policy.watch)
        groups = [example.group for example in examples]
        data = with_prompt_logprobs(data, groups, _logprobs_of(ahead, len(data)))

    backward = training.forward_backward(data, loss.name, loss.config)
    optim = training.optim_step(adam_params(config))
    output = wait(backward, f"forward_backward of step {step}", TRAIN_LIMIT_S, policy.watch)
    stepped = wait(optim, f"optim_step of step {step}", TRAIN_LIMIT_S, policy.watch)

    sampler_logprobs = [np.array(one.rollout.logprobs, dtype=np.float32) for one in examples]
    learner_logprobs = [
        answer_part(example.group, logprobs_T)
        for example, logprobs_T in zip(examples, _logprobs_of(output, len(data)), strict=True)
    ]
    kl, ratio_max, ratio_min = learner_agreement(sampler_logprobs, learner_logprobs)
    update = Update(
        loss=output.metrics.get("loss:sum", math.nan),
        grad_norm=_grad_norm(stepped),
        kl_sampler_learner=kl,
        ratio_max=ratio_max,
        ratio_min=ratio_min,
    )
    _require_finite(update, step)
    return update


def adam_params(config: RunConfig) -> tinker.AdamParams:
    """The optimizer's settings for one step."""
    optimizer = config.optimizer
    return tinker.AdamParams(
        learning_rate=config.train.learning_rate,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        grad_clip_norm=optimizer.grad_clip_norm,
    )


def _logprobs_of(output: tinker.ForwardBackwardOutput, datums: int) -> list[Floats]:
    found = [one["logprobs"].to_numpy() for one in output.loss_fn_outputs if "logprobs" in one]
    if len(found) != datums:
        raise BackendError(
            f"The server returned log-probabilities for {len(found)} of {datums} datums: it does "
            "not speak the protocol that training needs."
        )
    return found


def _grad_norm(stepped: tinker.OptimStepResponse) -> float | None:
    for name, value in (stepped.metrics or {}).items():
        if "grad_norm" in name or "grad/norm" in name:
            return value
    return None


def _require_finite(update: Update, step: int) -> None:
    values = {
        "loss": update.loss,
        "gradient norm": update.grad_norm,
        "KL between sampler and learner": update.kl_sampler_learner,
    }
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            raise RunError(
                f"The {name} of step {step} is {value}; the run stops before this step is saved. "
                "Lower train.learning_rate or set optimizer.grad_clip_norm under another "
                "--run.name; the checkpoints before it stay as they are."
            )
