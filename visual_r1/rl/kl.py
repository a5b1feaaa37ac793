"""The KL to the base model, or to what the run began with (`model.start_from`), in the reward.

    r_i  <-  r_i - β Σ_t (log π(a_t) - log π_base(a_t))        β is algorithm.kl_coefficient

over the tokens of response i, both at temperature 1: in expectation over samples of π the sum is
KL(π || π_base) of a whole response, in nats (Ouyang et al. 2022, arXiv:2203.02155, equation 2; the
estimate k1 of Schulman's note). As a component of the reward it is called `kl`, minus that sum.
Whether a group has contrast does not depend on it.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import tinker

from visual_r1.backend.waiting import SAMPLE_LIMIT_S, Meanwhile, stand_by, wait
from visual_r1.errors import BackendError
from visual_r1.policy.policy import Policy, Rollout, RolloutGroup
from visual_r1.prices import Tokens
from visual_r1.rewards import Part
from visual_r1.rl.advantages import KL
from visual_r1.rl.metrics import StepTimer

_Scored: TypeAlias = "tinker.APIFuture[list[float | None]]"


def with_kl(
    base: tinker.SamplingClient,
    groups: Iterable[RolloutGroup],
    policy: Policy,
    step: int,
    timer: StepTimer,
    meanwhile: Meanwhile = stand_by,
) -> Iterator[RolloutGroup]:
    """The groups in their order, with the component `kl` in every sample's reward.

    `base` samples from those weights; it scores every response, and is asked of a group as soon as
    that is there. Raises `BackendError` where it fails or returns another number of
    log-probabilities.
    """
    asked: deque[tuple[RolloutGroup, Sequence[_Scored | None]]] = deque()
    for group in groups:
        asked.append((group, [_asked_of(base, group, rollout) for rollout in group.rollouts]))
        while asked and all(one is None or one.future().done() for one in asked[0][1]):
            yield _group_with_kl(*asked.popleft(), policy, step, meanwhile)
    while asked:
        with timer.during("sample"), timer.during("kl"):
            found = _group_with_kl(*asked.popleft(), policy, step, meanwhile)
        yield found


def _asked_of(
    base: tinker.SamplingClient, group: RolloutGroup, rollout: Rollout
) -> "_Scored | None":
    return ask_logprobs(base, group.prompt, rollout.tokens) if rollout.tokens else None


def _group_with_kl(
    group: RolloutGroup,
    scored: "Sequence[_Scored | None]",
    policy: Policy,
    step: int,
    meanwhile: Meanwhile,
) -> RolloutGroup:
    what = f"log-probabilities of the base model in step {step}"
    weight = policy.config.algorithm.kl_coefficient
    rollouts = tuple(
        # A response without a token is as likely under both.
        replace(rollout, scored=rollout.scored.plus(KL, Part.of(weight, 0.0)))
        if future is None
        else _with_kl(
            rollout, wait(future, what, SAMPLE_LIMIT_S, policy.watch, meanwhile), weight, step
        )
        for rollout, future in zip(group.rollouts, scored, strict=True)
    )
    # The base model reads prompt and response of every sample that has a token, and for each
    # the SDK has one token sampled, which nobody looks at.
    lengths = [len(rollout.tokens) for rollout in rollouts if rollout.tokens]
    read = Tokens(len(lengths) * group.prompt.length + sum(lengths), sample=len(lengths))
    return replace(group, rollouts=rollouts, spent=group.spent + read)


def ask_logprobs(
    base: tinker.SamplingClient, prompt: tinker.ModelInput, tokens: Sequence[int]
) -> "tinker.APIFuture[list[float | None]]":
    """Ask for the log-probability of each of `tokens`, at least one, behind `prompt`."""
    answer = tinker.EncodedTextChunk(tokens=list(tokens))
    return base.compute_logprobs(
        tinker.ModelInput(chunks=[*prompt.chunks, answer]), prompt_logprobs_last_n=len(tokens)
    )


def logprobs_of(reply: Sequence[float | None] | None, count: int) -> list[float] | None:
    """The last `count` of a reply; None where it lacks one of them, or holds none at all."""
    found = [logprob for logprob in (reply or ())[-count:] if logprob is not None]
    return found if len(found) == count else None


def _with_kl(
    rollout: Rollout, reply: Sequence[float | None] | None, weight: float, step: int
) -> Rollout:
    count = len(rollout.tokens)
    base = logprobs_of(reply, count)
    if base is None:
        raise BackendError(
            f"The server did not return the base model's log-probability of each of {count} "
            f"tokens in step {step}; algorithm.kl_coefficient needs one a token."
        )
    away = math.fsum(own - other for own, other in zip(rollout.logprobs, base, strict=True))
    return replace(rollout, scored=rollout.scored.plus(KL, Part.of(weight, -away)))
