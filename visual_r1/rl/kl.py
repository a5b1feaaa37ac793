"""The KL to the base model, in the reward.

    r_i  <-  r_i - β Σ_t (log π(a_t) - log π_base(a_t))        β is algorithm.kl_coefficient

over the tokens of response i, both at temperature 1: in expectation over samples of π the sum is
KL(π || π_base) of a whole response, in nats (Ouyang et al. 2022, arXiv:2203.02155, equation 2; the
estimate k1 of Schulman's note). As a component of the reward it is called `kl`, minus that sum.
Whether a group has contrast does not depend on it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import tinker

from visual_r1.errors import BackendError
from visual_r1.prices import Tokens
from visual_r1.remote import SAMPLE_LIMIT_S, wait
from visual_r1.rl.reward_parts import KL
from visual_r1.rl.rollouts import Policy, Rollout, RolloutGroup


def with_kl(
    base: tinker.SamplingClient, groups: Sequence[RolloutGroup], policy: Policy, step: int
) -> list[RolloutGroup]:
    """The groups with the component `kl` in every sample's reward.

    `base` samples from the base model; it scores every response, all requested at once. Raises
    `BackendError` where it fails or returns another number of log-probabilities.
    """
    futures = [[_scored(base, group, rollout) for rollout in group.rollouts] for group in groups]
    what = f"log-probabilities of the base model in step {step}"
    weight = policy.config.algorithm.kl_coefficient
    return [
        replace(
            group,
            rollouts=tuple(
                _with_kl(rollout, wait(future, what, SAMPLE_LIMIT_S, policy.watch), weight, step)
                if future is not None
                else rollout
                for rollout, future in zip(group.rollouts, scored, strict=True)
            ),
            spent=group.spent + _read(group),
        )
        for group, scored in zip(groups, futures, strict=True)
    ]


def _read(group: RolloutGroup) -> Tokens:
    """What the base model reads: prompt and response of every sample that has a token."""
    answers = [len(rollout.tokens) for rollout in group.rollouts if rollout.tokens]
    return Tokens(prefill=len(answers) * group.prompt.length + sum(answers))


def _scored(
    base: tinker.SamplingClient, group: RolloutGroup, rollout: Rollout
) -> "tinker.APIFuture[list[float | None]] | None":
    if not rollout.tokens:
        return None
    answer = tinker.EncodedTextChunk(tokens=list(rollout.tokens))
    return base.compute_logprobs(
        tinker.ModelInput(chunks=[*group.prompt.chunks, answer]),
        prompt_logprobs_last_n=len(rollout.tokens),
    )


def _with_kl(
    rollout: Rollout, logprobs: Sequence[float | None], weight: float, step: int
) -> Rollout:
    count = len(rollout.tokens)
    base = [logprob for logprob in logprobs[-count:] if logprob is not None]
    if len(base) != count:
        raise BackendError(
            f"The server returned {len(base)} log-probabilities of the base model for {count} "
            f"tokens in step {step}; algorithm.kl_coefficient needs one a token, so set it to 0 "
            "on this server."
        )
    away = math.fsum(own - other for own, other in zip(rollout.logprobs, base, strict=True))
    scored = rollout.scored
    return replace(
        rollout,
        scored=replace(
            scored,
            reward=scored.reward - weight * away,
            components={**scored.components, KL: -away},
        ),
    )
