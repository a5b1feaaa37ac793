"""Advantages of a group of samples, whether it has anything to teach, and what its tokens count.

**Advantages.** With the rewards r_1 … r_G of the samples of one problem:

    grpo       (r_i - mean(r)) / std(r)         population std, 0 where std < 1e-8
               Shao et al. 2024, arXiv:2402.03300, section 4.1.2
    dr_grpo    r_i - mean(r)                    hard and easy problems count alike
               Liu et al. 2025, arXiv:2503.20783
    rloo       r_i - mean of the others         unbiased: G / (G - 1) times dr_grpo
               Ahmadian et al. 2024, arXiv:2402.14740
    gdpo       Σ_k w_k · grpo(component k)      then divided by the std over the batch
               Liu et al. 2026, arXiv:2601.05242

gdpo normalises each component of the reward by itself, so that samples with different components
and the same sum do not become the same. dr_grpo and rloo are linear: for them, component by
component and then summed is the same as over the sum. There is no learnt baseline: the other
samples of the same problem are the baseline.

**Normalisation.** Tinker's losses are plain sums over tokens; what the loss of a batch is divided
by goes through the advantages. With D responses of n_1 … n_D tokens in the batch of one
optimizer step, N = Σ n_i and L = `sampling.max_new_tokens`, each token of response i counts

    none        1             the sum as it is
    token       1 / N         the mean over all tokens (DAPO, arXiv:2503.14476, section 3.3)
    sequence    1 / (D n_i)   the mean over responses of their means (GRPO, arXiv:2402.03300)
    constant    1 / (D L)     a constant length, so that length has no say (Dr. GRPO,
                              arXiv:2503.20783)

Adam does not see a constant factor, but a gradient clip does; and `sequence` makes the tokens of
short responses count more.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from visual_r1.config import RunConfig
from visual_r1.policy.policy import RolloutGroup
from visual_r1.policy.second_pass import COMPONENT as SECOND_PASS
from visual_r1.rewards import Part

KL = "kl"
MIN_STD = 1e-8


def grpo(rewards_G: Sequence[float]) -> list[float]:
    """The G advantages of a group's G rewards; zeros where all rewards are the same."""
    if not rewards_G:
        return []
    mean = math.fsum(rewards_G) / len(rewards_G)
    std = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards_G) / len(rewards_G))
    if std < MIN_STD:
        return [0.0] * len(rewards_G)
    return [(reward - mean) / std for reward in rewards_G]


def dr_grpo(rewards_G: Sequence[float]) -> list[float]:
    """The G rewards minus their mean; zeros where all rewards are the same."""
    if not rewards_G:
        return []
    mean = math.fsum(rewards_G) / len(rewards_G)
    deviations = [reward - mean for reward in rewards_G]
    if max(map(abs, deviations)) < MIN_STD:
        return [0.0] * len(rewards_G)
    return deviations


def rloo(rewards_G: Sequence[float]) -> list[float]:
    """Each of the G rewards minus the mean of the others; zero where there is no other."""
    count = len(rewards_G)
    if count < 2:
        return [0.0] * count
    return [deviation * count / (count - 1) for deviation in dr_grpo(rewards_G)]


def gdpo(parts_G: Sequence[Mapping[str, Part]]) -> list[float]:
    """Σ_k w_k · grpo(component k) of a group's G samples, before the batch is normalised.

    `parts_G` holds the same components for every sample. A component that is the same for all
    samples adds nothing, whatever it is worth.
    """
    totals = [0.0] * len(parts_G)
    # The second pass comes last whenever it was added: the order of a sum decides its last bit.
    for name in sorted(parts_G[0], key=lambda name: name == SECOND_PASS) if parts_G else ():
        weight = abs(parts_G[0][name].weight)
        for index, advantage in enumerate(grpo([parts[name].worth for parts in parts_G])):
            totals[index] += weight * advantage
    # Components that cancel each other leave rounding alone, which the batch's std would blow up.
    return totals if any(abs(total) >= MIN_STD for total in totals) else [0.0] * len(totals)


ADVANTAGES: Mapping[str, Callable[[Sequence[float]], list[float]]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
}


def advantages_of(groups: Sequence[RolloutGroup], config: RunConfig) -> list[list[float]]:
    """The advantages of each group's G samples; zeros for what is to give no gradient."""
    return [advantages_G for _, advantages_G in with_advantages(groups, config)]


def with_advantages(
    groups: Iterable[RolloutGroup], config: RunConfig
) -> Iterator[tuple[RolloutGroup, list[float]]]:
    """Each group with the advantages of its G samples, as soon as it is there.

    gdpo looks at all groups first. Zeros for what is to give no gradient: a group without contrast
    (`train.skip_without_contrast`), with dynamic sampling those beyond the first
    `train.batch_size` that have it, and where `algorithm.mask_truncated` is set a truncated
    response (DAPO's overlong filtering, arXiv:2503.14476, section 3.4), which stays part of its
    group's baseline.
    """
    algorithm, mask = config.algorithm, config.algorithm.mask_truncated
    left = config.train.batch_size if algorithm.dynamic_rounds else math.inf
    for group, advantages_G in _of_each(groups, config):
        counts = has_contrast(group)
        if left <= 0 and counts:
            advantages_G = [0.0] * len(group.rollouts)
        left -= counts
        yield (
            group,
            [
                0.0 if mask and rollout.truncated else advantage
                for rollout, advantage in zip(group.rollouts, advantages_G, strict=True)
            ],
        )


def _of_each(
    groups: Iterable[RolloutGroup], config: RunConfig
) -> Iterator[tuple[RolloutGroup, list[float]]]:
    """By name, before anything is taken out of a batch but groups without contrast."""

    def of(group: RolloutGroup) -> list[float]:
        if config.train.skip_without_contrast and not has_contrast(group):
            return [0.0] * len(group.rollouts)
        if (name := config.algorithm.advantage) == "gdpo":
            return gdpo([rollout.scored.parts for rollout in group.rollouts])
        return ADVANTAGES[name]([rollout.scored.reward for rollout in group.rollouts])

    if config.algorithm.advantage == "gdpo":
        whole = list(groups)
        yield from zip(whole, _over_batch([of(group) for group in whole]), strict=True)
    else:
        for group in groups:
            yield group, of(group)


def has_contrast(group: RolloutGroup) -> bool:
    """Whether the samples of the group differ in (right with the image, right from the scan).

    It looks at correctness, never at the shaped reward: an all-wrong group whose samples differ
    in format alone would teach format at the cost of everything else. A grade that gave up counts
    as not right. Without a second pass, only being right with the image is left.
    """
    found = {(one.right, one.second is not None and one.second.right) for one in group.rollouts}
    return len(found) > 1


def _over_batch(advantages: Sequence[Sequence[float]]) -> list[list[float]]:
    """Divided by the population std over the samples of all groups that have any advantage.

    GDPO also takes away the batch's mean, which is zero: it is zero in every group.
    """
    taught = [value for group in advantages if any(group) for value in group]
    if not taught:
        return [list(group) for group in advantages]
    std = math.sqrt(math.fsum(value * value for value in taught) / len(taught))
    return [[value / std for value in group] for group in advantages]


Normalization = Literal["none", "token", "sequence", "constant"]


def token_shares(lengths_D: Sequence[int], how: Normalization, max_tokens: int) -> list[float]:
    """What each token of each of the D responses counts; see above."""
    responses = len(lengths_D)
    match how:
        case "none":
            return [1.0] * responses
        case "token":
            return [1.0 / sum(lengths_D)] * responses
        case "sequence":
            return [1.0 / (responses * length) for length in lengths_D]
        case "constant":
            return [1.0 / (responses * max_tokens)] * responses
