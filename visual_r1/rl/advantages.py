"""Advantages of a group of samples, and whether the group has anything to teach.

GRPO (Shao et al. 2024, arXiv:2402.03300, section 4.1.2):

    A_i = (r_i - mean(r)) / std(r)      with the population standard deviation, 0 where std < 1e-8

There is no learnt baseline: the other samples of the same problem are the baseline.
"""

import math
from collections.abc import Sequence

from visual_r1.rl.rollouts import RolloutGroup

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


def has_contrast(group: RolloutGroup) -> bool:
    """Whether the samples of the group differ in (right with the image, right from the scan).

    It looks at correctness, never at the shaped reward: an all-wrong group whose samples differ
    in format alone would teach format at the cost of everything else. A grade that gave up counts
    as not right. Without a second pass, only being right with the image is left.
    """
    found = {(one.right, one.second is not None and one.second.right) for one in group.rollouts}
    return len(found) > 1
