"""The first pass: how the answers to a problem are drawn, and what one of them is worth."""

import math

import tinker

from visual_r1.data.problem import Problem
from visual_r1.errors import BackendError, RunError
from visual_r1.hashing import stable_seed
from visual_r1.policy.policy import Policy, Rollout, response_text
from visual_r1.rewards import RewardInput, score


def sampling_params(
    policy: Policy, step: int, group: int, problem: Problem
) -> tinker.SamplingParams:
    """How the samples of one group are drawn; sample j's own stream is derived by the server."""
    config = policy.config
    return tinker.SamplingParams(
        max_tokens=config.sampling.max_new_tokens,
        temperature=config.sampling.temperature,
        seed=stable_seed("rollout", config.train.seed, step, group, problem.id),
        stop=policy.processor.stop_token_ids,
    )


def graded(
    policy: Policy,
    problem: Problem,
    step: int,
    group: int,
    sample: int,
    sequence: tinker.SampledSequence,
) -> Rollout:
    """What came back as sample `sample` of the group, scored.

    Raises `BackendError` where it lacks the log-probability of a token: it cannot be learnt from;
    `RunError` where one is not finite: the weights that drew it are broken.
    """
    logprobs = sequence.logprobs
    if logprobs is None or len(logprobs) != len(sequence.tokens):
        raise BackendError(
            f"The server returned {len(logprobs or ())} log-probabilities for "
            f"{len(sequence.tokens)} sampled tokens in step {step}; training needs one a token, "
            "so this server cannot be trained with."
        )
    if not all(map(math.isfinite, logprobs)):
        raise RunError(
            f"The log-probabilities of the samples of step {step} are not finite: an update before "
            "it has broken the weights. The run stops before this step is saved. Go back to a "
            "sound checkpoint with --train.resume_from_step, or lower train.learning_rate under "
            "another --run.name."
        )
    response = response_text(policy.processor, sequence.tokens)
    truncated = sequence.stop_reason == "length"
    seed = stable_seed("reward", policy.config.train.seed, step, group, problem.id, sample)
    opens_think, tags = policy.prompter.opens_think, policy.prompter.tags
    scored = score(
        policy.config.reward,
        RewardInput(
            problem,
            response,
            truncated,
            seed,
            opens_think,
            tags,
            tokens=tuple(sequence.tokens),
            max_tokens=policy.config.sampling.max_new_tokens,
        ),
        policy.config.penalty,
    )
    return Rollout(
        problem_id=problem.id,
        group=group,
        sample=sample,
        tokens=tuple(sequence.tokens),
        logprobs=tuple(logprobs),
        response=response,
        stop_reason=sequence.stop_reason,
        scored=scored,
    )
