"""Dynamic sampling: problems are drawn until the batch is full of groups that teach something.

DAPO (arXiv:2503.14476, section 3.2). Round 0 is the batch of the step; round k draws
`batch(seed, step, k)` (with a curriculum, what comes next in the order of the step), as many
problems again, at most `algorithm.dynamic_rounds` times. The batch is full with `train.batch_size`
groups that have contrast; those beyond, and what is drawn without contrast, give no gradient and
stay in the metrics and rollouts. Which problems are drawn depends on the seed, the step and the
samples so far, so a resumed run draws the same.
"""

from collections.abc import Callable, Sequence

import tinker

from visual_r1.data.problem import Problem
from visual_r1.policy.policy import Policy, RolloutGroup
from visual_r1.rl.advantages import has_contrast
from visual_r1.rl.phases import Phases
from visual_r1.rl.sampling import sample_groups

Draw = Callable[[int], Sequence[Problem]]


def sample_until_full(
    sampler: tinker.SamplingClient,
    policy: Policy,
    draw: Draw,
    step: int,
    phases: Phases | None = None,
) -> list[RolloutGroup]:
    """All groups that were sampled, in order; `draw(round)` gives a round's problems.

    Raises what `sample_groups` raises, for a further round too.
    """
    config = policy.config
    groups = sample_groups(sampler, policy, draw(0), step, phases=phases)
    for turn in range(1, config.algorithm.dynamic_rounds + 1):
        if sum(map(has_contrast, groups)) >= config.train.batch_size:
            break
        groups += sample_groups(sampler, policy, draw(turn), step, len(groups), phases)
    return groups


def surplus(groups: Sequence[RolloutGroup], most: int) -> set[int]:
    """The places of the groups with contrast that come after the first `most` of them."""
    return set([place for place, group in enumerate(groups) if has_contrast(group)][most:])
