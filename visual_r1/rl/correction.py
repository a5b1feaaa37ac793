"""Bounded importance weights for samples of other weights than those that learn.

With q the sampler's probability of each token of a response and p that of the weights at the
beginning of the step, which a forward ahead of the update gives, and r = p / q,

    token_truncate       w_t = min(r_t, c)               Espeholt et al. 2018, arXiv:1802.01561
    token_mask           w_t = r_t where a <= r_t <= c, else 0
    sequence_truncate    w_t = min(Π r, c)               the ratio of the whole response, at each
    sequence_mask        w_t = Π r where a <= Π r <= c, else 0         of its tokens

with a `pipeline.ratio_low` and c `pipeline.ratio_high`. The advantage of a token is multiplied by
w_t, and the loss is given p in place of q: its own ratio, and its clip, begin at 1 and say how far
this step's optimizer steps have moved (the decoupled objective of Hilton et al. 2021,
arXiv:2110.00641). Without a correction the loss's ratio is to q itself.

It bounds what a stale sample can do, and what a server can that samples in another precision than
it trains in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from visual_r1.config import PipelineSection
from visual_r1.rl.divergence import Floats


@dataclass(frozen=True, slots=True)
class Corrected:
    """Of one response of n tokens: p's log-probabilities and the weights w, n each.

    `bounded` counts the tokens whose ratio, or whose response's, was outside the bounds.
    """

    logprobs: tuple[float, ...]
    weights: tuple[float, ...]
    bounded: int


def corrected(sampler: Sequence[float], learner: Floats, settings: PipelineSection) -> Corrected:
    """The weights of one response, from its n log-probabilities under q and under p."""
    log_ratio = learner.astype(np.float64) - np.asarray(sampler, dtype=np.float64)
    level, how = settings.correction.split("_")
    if level == "sequence":
        log_ratio = np.full_like(log_ratio, log_ratio.sum())
    with np.errstate(over="ignore"):
        ratio: npt.NDArray[np.float64] = np.exp(log_ratio)
    outside = ratio > settings.ratio_high
    if how == "mask":
        outside |= ratio < settings.ratio_low
        weights = np.where(outside, 0.0, ratio)
    else:
        weights = np.minimum(ratio, settings.ratio_high)
    return Corrected(tuple(map(float, learner)), tuple(map(float, weights)), int(outside.sum()))
