"""One GRPO step: sample, grade, advantages, update.

By default plain GRPO as Tinker's losses allow it: advantages by group (mean and population std),
token-level sums without length normalisation, no KL term, importance sampling with the sampler's
log-probabilities as the old policy, one optimizer step. Each of these is a name in the section
`algorithm`; the formulas are in `advantages`, `normalization`, `losses`, `kl` and `schedule`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import tinker

from visual_r1.backend.waiting import SAVE_LIMIT_S, wait
from visual_r1.data.problem import Problem
from visual_r1.policy.policy import Policy, Rollout, RolloutGroup
from visual_r1.rl.advantages import advantages_of, has_contrast
from visual_r1.rl.curriculum import DrawnProblems
from visual_r1.rl.kl import with_kl
from visual_r1.rl.learning import Example, learning_rate, send_update
from visual_r1.rl.metrics import Phases, Seconds, StepMetrics, summarize
from visual_r1.rl.sampling import Draw, sample_until_full, surplus

Observe = Callable[[Sequence[RolloutGroup]], DrawnProblems | None]


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


def train_step(
    training: tinker.TrainingClient,
    policy: Policy,
    problems: Sequence[Problem],
    step: int,
    base: tinker.SamplingClient | None = None,
    draw: Draw | None = None,
    sampled: Observe | None = None,
) -> StepResult:
    """Run one step on `problems`, the batch of this step; `draw(round)` gives further ones.

    `sampled` is called when all is sampled and before the learner is: it is told the groups of all
    rounds, in order, and gives what the metrics say of the draw.

    A fresh sampler is made of the current weights; `base` samples from the base model, and is
    needed where `algorithm.kl_coefficient` is not 0. Where no group has contrast, neither
    forward_backward nor optim_step is sent and the metrics say `updated: false`. Raises
    `BackendError` when the server fails, `RunError` when loss or gradient are not finite; the
    weights on the server are then not to be used any further.
    """
    began, phases = time.monotonic(), Phases()
    with phases.during("sampler"):
        saving = training.save_weights_and_get_sampling_client()
        sampler = wait(saving, f"the sampler of step {step}", SAVE_LIMIT_S, policy.watch)
    groups = sample_until_full(
        sampler, policy, lambda turn: draw(turn) if turn and draw else problems, step, phases
    )
    drawn = sampled(groups) if sampled else None
    if base is not None:
        with phases.during("kl"):
            groups = with_kl(base, groups, policy, step)
    sampled_at = time.monotonic()

    advantages = advantages_of(groups, policy.config)
    mask = policy.config.algorithm.mask_truncated
    if policy.config.algorithm.dynamic_rounds:
        for place in surplus(groups, policy.config.train.batch_size):
            advantages[place] = [0.0] * len(advantages[place])
    examples = [
        Example(group, rollout, advantage)
        for group, advantages_G in zip(groups, advantages, strict=True)
        if any(advantages_G)
        for rollout, advantage in zip(group.rollouts, advantages_G, strict=True)
        if rollout.tokens and not (mask and rollout.truncated)
    ]
    update = send_update(training, policy, examples, step) if examples else None
    ended = time.monotonic()

    metrics = summarize(
        step,
        groups,
        update,
        without_contrast=sum(not has_contrast(group) for group in groups),
        datums=len(examples),
        with_gradient=sum(example.advantage != 0 for example in examples),
        learning_rate=learning_rate(policy.config, step),
        seconds=Seconds(
            sampled_at - began, ended - sampled_at, ended - began, phases.grading, phases.seconds
        ),
        prices=policy.prices,
        temperature=policy.config.sampling.temperature,
    )
    return StepResult(
        replace(metrics, drawn=drawn),
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
