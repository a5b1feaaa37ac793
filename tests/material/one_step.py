"""One step of the loop on problems that the test names."""

from collections.abc import Sequence

import tinker

from visual_r1.data.problem import Problem
from visual_r1.policy.policy import Policy, RolloutGroup
from visual_r1.rl.batches import Batches, ProblemOrder, PromptedProblem
from visual_r1.rl.sampling import sample_groups
from visual_r1.rl.step import StepResult, train_steps


class Listed:
    """The same problems in every step and round, in their order."""

    needs_samples = False

    def __init__(self, count: int) -> None:
        self._count = count

    def places(self, _: int, __: int) -> Sequence[int]:
        return range(self._count)

    def observe(self, _: int, __: Sequence[RolloutGroup]) -> None:
        return None


def train_step(
    training: tinker.TrainingClient,
    policy: Policy,
    problems: Sequence[Problem],
    step: int,
    base: tinker.SamplingClient | None = None,
    order: ProblemOrder | None = None,
) -> StepResult:
    results: list[StepResult] = []
    steps = range(step, step + 1)
    order = order or Listed(len(problems))
    with Batches(problems, order, policy.prompter.model_input, steps) as batches:
        train_steps(steps, training, policy, batches, base, results.append)
    [result] = results
    return result


def groups_of(
    sampler: tinker.SamplingClient, policy: Policy, problems: Sequence[Problem], step: int
) -> list[RolloutGroup]:
    batch = [PromptedProblem(one, policy.prompter.model_input(one)) for one in problems]
    return sample_groups(sampler, policy, batch, step)
