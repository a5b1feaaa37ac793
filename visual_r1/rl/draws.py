"""Whether samples are drawn from the distribution whose log-probabilities come with them.

A server reports log-probabilities of the model itself, whatever it draws from: another temperature,
a top-p or a greedy decoder leaves them, and with them the KL between sampler and learner, as they
were. What does change is how often samples of a group part. Of k samples that begin alike, two go
on alike with probability Σ q(x)², which is the mean of q(x) over what was drawn, if q is what was
drawn from. So over all prefixes that at least two samples of a group share,

    draw ratio = Σ (k - 1) · share of pairs that part  /  Σ (k - 1) · mean of 1 - p(x)

is 1 up to noise where they are drawn from p; below where the draw is colder, above where it is
hotter. p is at temperature 1, so this says something where that is the temperature asked for.
"""

import math
from collections.abc import Sequence
from statistics import fmean

from visual_r1.policy.policy import Rollout, RolloutGroup

# Where fewer partings are expected in a whole step, the ratio is noise.
LEAST_EXPECTED = 5.0


def draw_ratio(groups: Sequence[RolloutGroup]) -> float | None:
    """The ratio over all samples of a step; None where too few partings are expected of them."""
    parts = [_partings([*group.rollouts, *group.unscored]) for group in groups]
    expected = math.fsum(one for _, one in parts)
    if expected < LEAST_EXPECTED:
        return None
    return math.fsum(seen for seen, _ in parts) / expected


def _partings(samples: Sequence[Rollout]) -> tuple[float, float]:
    """(partings seen, partings expected) of the samples of one problem."""
    seen = expected = 0.0
    # Sets of at least two samples that are the same up to this place.
    alike = [[sample for sample in samples if sample.tokens]]
    place = 0
    while alike := [together for together in alike if len(together) > 1]:
        following: list[list[Rollout]] = []
        for together in alike:
            by_token: dict[int, list[Rollout]] = {}
            for sample in together:
                by_token.setdefault(sample.tokens[place], []).append(sample)
            k = len(together)
            agreeing = sum(len(same) * (len(same) - 1) for same in by_token.values())
            seen += (k - 1) * (1 - agreeing / (k * (k - 1)))
            expected += (k - 1) * fmean(-math.expm1(sample.logprobs[place]) for sample in together)
            following += by_token.values()
        place += 1
        alike = [
            [sample for sample in together if len(sample.tokens) > place] for together in following
        ]
    return seen, expected
