"""The loop: a step samples, grades, compares within its groups, and learns.

By default plain GRPO as Tinker's losses allow it: advantages by group (mean and population std),
token-level sums without length normalisation, no KL term, importance sampling with the sampler's
log-probabilities as the old policy, one optimizer step. Each of these is a name in the section
`algorithm`; the formulas are in `advantages`, `losses`, `kl`, `learning` and `curriculum`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import tinker

from visual_r1.backend.waiting import SAVE_LIMIT_S, wait
from visual_r1.policy.policy import Policy, Rollout, RolloutGroup
from visual_r1.rl.advantages import advantages_of
from visual_r1.rl.batches import Batches
from visual_r1.rl.kl import with_kl
from visual_r1.rl.learning import examples_of, learn
from visual_r1.rl.losses import UNPUBLISHED
from visual_r1.rl.metrics import StepMetrics, StepTimer, step_metrics
from visual_r1.rl.sampling import sample_until_full


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


def train_steps(
    steps: Iterable[int],
    training: tinker.TrainingClient,
    policy: Policy,
    batches: Batches,
    base: tinker.SamplingClient | None,
    journal: Callable[[StepResult], None],
) -> None:
    """Run `steps`, one after another; `journal` is told each when it is done.

    `base` samples from the base model, and is needed where `algorithm.kl_coefficient` is not 0.
    Where no group of a step has contrast, neither forward_backward nor optim_step is sent and its
    metrics say `updated: false`. Raises `BackendError` when the server fails, `RunError` when loss
    or gradient are not finite; the weights on the server are then not to be used any further.
    """
    config = policy.config
    for step in steps:
        timer = StepTimer()
        with timer.during("sample"):
            with timer.during("sampler"):
                sampler = current_sampler(training, policy, step)
            groups = sample_until_full(sampler, policy, batches.rounds(step), step, timer)
            expected = batches.observe(step, groups)  # and the next prompts are begun
            if base is not None:
                with timer.during("kl"):
                    groups = with_kl(base, groups, policy, step)
        with timer.during("train"):
            advantages = advantages_of(groups, config)
            examples = examples_of(groups, advantages, config)
            update = learn(training, policy, examples, step)
        metrics = step_metrics(
            config, step, groups, examples, update,
            expected=expected, seconds=timer.row(), prices=policy.prices,
        )  # fmt: skip
        journal(StepResult(metrics, scored_rollouts(groups, advantages)))


def current_sampler(
    training: tinker.TrainingClient, policy: Policy, step: int
) -> tinker.SamplingClient:
    """A sampler of the weights as they are now; it records what the loss has to name later."""
    saving = training.save_weights_and_get_sampling_client(
        record_stability_info=policy.config.train.loss == UNPUBLISHED
    )
    return wait(saving, f"the sampler of step {step}", SAVE_LIMIT_S, policy.watch)


def scored_rollouts(
    groups: Sequence[RolloutGroup], advantages: Sequence[Sequence[float]]
) -> tuple[ScoredRollout, ...]:
    """All samples by (group, sample), also those that could not be scored."""
    found: list[ScoredRollout] = []
    for group, advantages_G in zip(groups, advantages, strict=True):
        scored = [
            *map(ScoredRollout, group.rollouts, advantages_G),
            *(ScoredRollout(rollout, 0.0) for rollout in group.unscored),
        ]
        found += sorted(scored, key=lambda one: one.rollout.sample)
    return tuple(found)
