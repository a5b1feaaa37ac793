"""How far the learner is from the policy that sampled, over the answer tokens of a minibatch.

With r = p_learner / p_sampler of each sampled token:

    KL(sampler || learner)   mean of r - 1 - log r, in nats a token: Schulman's k3, unbiased and
                             never negative (joschu.net/blog/kl-approx.html)
    clip share               the share of tokens whose gradient the loss clips; `losses.Loss.clips`
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from visual_r1.rl.losses import Loss

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Divergence:
    """Over so many `tokens`; `clipped` counts tokens, and is None where the loss clips none."""

    kl: float
    ratio_max: float
    ratio_min: float
    tokens: int
    clipped: int | None = None


def divergence(
    sampler_logprobs: Sequence[Floats],
    learner_logprobs: Sequence[Floats],
    advantages: Sequence[float],
    loss: Loss,
    reference: Sequence[Floats] | None = None,
) -> Divergence:
    """Of D responses with their tokens' log-probabilities, and an advantage each.

    `reference` is what the ratio of the loss is taken to, where that is not the sampler.
    """
    sampled = np.concatenate(sampler_logprobs).astype(np.float64)
    learnt = np.concatenate(learner_logprobs).astype(np.float64)
    log_ratio = learnt - sampled
    with np.errstate(over="ignore"):
        ratio = np.exp(log_ratio)
    by_token = np.repeat(advantages, [len(logprobs) for logprobs in sampler_logprobs])
    of_loss = log_ratio
    if reference is not None:
        of_loss = learnt - np.concatenate(reference).astype(np.float64)
    by_response = np.split(of_loss, np.cumsum([len(one) for one in sampler_logprobs])[:-1])
    clipped = loss.clips(by_response, by_token)
    return Divergence(
        kl=float(np.mean(ratio - 1 - log_ratio)),
        ratio_max=float(ratio.max()),
        ratio_min=float(ratio.min()),
        tokens=len(ratio),
        clipped=None if clipped is None else int(clipped.sum()),
    )


def clip_share(found: Sequence[Divergence]) -> float | None:
    """The share of all their tokens that the loss clipped; None where there is nothing to clip."""
    counts = [one.clipped for one in found if one.clipped is not None]
    tokens = sum(one.tokens for one in found)
    return sum(counts) / tokens if counts and tokens else None
