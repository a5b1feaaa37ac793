"""The loop: a step samples, grades, compares within its groups, and learns.

By default plain GRPO as Tinker's losses allow it: advantages by group (mean and population std),
token-level sums without length normalisation, no KL term, importance sampling with the sampler's
log-probabilities as the old policy, one optimizer step. Each of these is a name in the section
`algorithm`; the formulas are in `advantages`, `losses`, `kl`, `learning` and `curriculum`.

**Who waits for whom.** With W_t the weights at the beginning of step t and S
`algorithm.max_staleness`, of the steps a, a + 1, … of a chunk

    batch t is sampled by W_max(a, t - S)     S = 0: by the weights that learn from it

as soon as those are there. So at most S + 1 batches are sampled at a time, and up to S of them
while others train. Which weights sample which batch depends on the numbers alone. A chunk begins
with nothing under way, and ends when all that was sampled has been learnt from: nothing of it has
to outlive a kill, and the first batch of a chunk is never stale.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tinker

from visual_r1.config import RunConfig
from visual_r1.policy.policy import Policy, Rollout, RolloutGroup
from visual_r1.rl.batches import Batches
from visual_r1.rl.kl import with_kl
from visual_r1.rl.learning import StepLearner
from visual_r1.rl.losses import UNPUBLISHED
from visual_r1.rl.metrics import StepMetrics, StepTimer, step_metrics
from visual_r1.rl.sampling import Sampling


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
    steps: range,
    training: tinker.TrainingClient,
    policy: Policy,
    batches: Batches,
    base: tinker.SamplingClient | None,
    journal: Callable[[StepResult], None],
    *,
    parts: int = 1,
) -> None:
    """Run `steps`, one after another; `journal` is told each when it is done.

    `base` samples from the base model, and is needed where `algorithm.kl_coefficient` is not 0; the
    batch of a step goes to the learner in `parts`, at most. Where no group of a step has contrast,
    neither forward_backward nor optim_step is sent and its metrics say `updated: false`. Raises
    `BackendError` when the server fails, `RunError` when loss or gradient are not finite; the
    weights on the server are then not to be used any further.
    """
    config = policy.config
    timers = {step: StepTimer() for step in steps}
    with Sampling(policy, batches, timers) as sampling:
        updated = time.monotonic()
        sampling.begin(sampled_with(steps.start, steps, config), sampler_of(training, config))
        for step in steps:
            timer, staleness = timers[step], staleness_of(step, steps, config)
            learner = StepLearner(
                training, policy, step,
                parts=parts, staleness=staleness, meanwhile=sampling.meanwhile,
            )  # fmt: skip
            groups = sampling.groups(step)  # in order, each as soon as it is complete
            if base is not None:
                groups = with_kl(base, groups, policy, step, timer, sampling.meanwhile)
            learner.take(groups)
            with timer.during("train"):
                learner.finish()
                if following := sampled_with(step + 1, steps, config):
                    # A server that names the sampler at once has the requests when it is there.
                    sampling.begin(following, sampler_of(training, config))
                expected = batches.observe(step, learner.groups)  # and the next prompts are begun
                update = learner.update()
                sampling.can_begin(following)
            timer.total, updated = time.monotonic() - updated, time.monotonic()
            if step + 1 in steps:
                sampling.ask(step + 1)
            # What is left is done while the next batch is sampled.
            metrics = step_metrics(
                config, step, learner.groups, learner.examples, update,
                staleness=staleness, expected=expected, seconds=timer.row(), prices=policy.prices,
            )  # fmt: skip
            journal(StepResult(metrics, scored_rollouts(learner.groups, learner.advantages)))


def staleness_of(step: int, steps: range, config: RunConfig) -> int:
    """How many steps before `step` the weights were made that sample its batch."""
    return min(config.algorithm.max_staleness, step - steps.start)


def sampled_with(step: int, steps: range, config: RunConfig) -> range:
    """The steps whose batches are sampled by the weights at the beginning of `step`."""
    most = config.algorithm.max_staleness
    first = step if step == steps.start else step + most
    return range(min(first, steps.stop), min(step + most + 1, steps.stop))


def sampler_of(
    training: tinker.TrainingClient, config: RunConfig
) -> "tinker.APIFuture[tinker.SamplingClient]":
    """Make a sampler of the weights as they will be behind all that was sent before; it records
    what the loss has to name later."""
    return training.save_weights_and_get_sampling_client(
        record_stability_info=config.train.loss == UNPUBLISHED
    )


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
