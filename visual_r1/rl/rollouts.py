"""Rollouts: G samples a problem, graded as they arrive, ordered by (group, sample)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tinker

from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.errors import BackendError, RequestRefused
from visual_r1.hashing import stable_seed
from visual_r1.models.processor import Processor
from visual_r1.prompts.prompts import Prompter
from visual_r1.remote import SAMPLE_LIMIT_S, Watch, as_they_arrive, nothing_to_watch
from visual_r1.rewards import RewardInput, Scored, score


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response: n tokens with their n log-probabilities under the sampler.

    `tokens` end with the stop token unless `stop_reason` is "length"; `response` is their text
    without it.
    """

    problem_id: str
    group: int
    sample: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    response: str
    stop_reason: str
    scored: Scored

    @property
    def right(self) -> bool:
        """Whether the grader found the answer right; false also where it gave up."""
        return self.scored.grade.verdict == "right"

    @property
    def truncated(self) -> bool:
        """Whether the response ended because it was too long."""
        return self.stop_reason == "length"


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The samples of one problem in one step.

    `failed` counts samples that never came back; they are no part of `rollouts`, and `failure`
    then holds the server's sentence.
    """

    problem: Problem
    prompt: tinker.ModelInput
    rollouts: tuple[Rollout, ...]
    failed: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """What it takes to ask the current weights for answers, and to grade them."""

    prompter: Prompter
    processor: Processor
    config: RunConfig
    watch: Watch = nothing_to_watch


def sample_groups(
    sampler: tinker.SamplingClient,
    policy: Policy,
    problems: Sequence[Problem],
    step: int,
    on_rollout: Callable[[Rollout], None] | None = None,
) -> list[RolloutGroup]:
    """Sample `train.group_size` responses to each of the step's problems.

    All prompts are requested at once; each is graded when it arrives, while the others are still
    sampled. Seeds come from (train.seed, step, group, problem), so the result does not depend on
    arrival. A prompt that the server refuses gives an empty group with its samples counted as
    failed; raises `BackendError` when that is so for every prompt, and on any other failure.
    """
    prompts = [policy.prompter.model_input(problem) for problem in problems]
    futures = [
        sampler.sample(
            prompt,
            num_samples=policy.config.train.group_size,
            sampling_params=sampling_params(policy, step, group, problem),
        )
        for group, (problem, prompt) in enumerate(zip(problems, prompts, strict=True))
    ]
    groups: dict[int, RolloutGroup] = {}
    what = f"sampling of step {step}"
    for group, response in as_they_arrive(futures, what, SAMPLE_LIMIT_S, policy.watch):
        problem, prompt = problems[group], prompts[group]
        if isinstance(response, RequestRefused):
            failed = policy.config.train.group_size
            groups[group] = RolloutGroup(problem, prompt, (), failed, str(response))
            continue
        rollouts = tuple(
            _graded(policy, problem, step, group, sample, sequence)
            for sample, sequence in enumerate(response.sequences)
        )
        groups[group] = RolloutGroup(problem, prompt, rollouts)
        for rollout in rollouts:
            if on_rollout is not None:
                on_rollout(rollout)
    ordered = [groups[index] for index in range(len(problems))]
    if not any(group.rollouts for group in ordered):
        raise BackendError(
            f"All {len(ordered)} prompts of step {step} were refused; the first with: "
            f"{ordered[0].failure}"
        )
    return ordered


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


def _graded(
    policy: Policy,
    problem: Problem,
    step: int,
    group: int,
    sample: int,
    sequence: tinker.SampledSequence,
) -> Rollout:
    logprobs = sequence.logprobs
    if logprobs is None or len(logprobs) != len(sequence.tokens):
        raise BackendError(
            f"The server returned {len(logprobs or ())} log-probabilities for "
            f"{len(sequence.tokens)} sampled tokens in step {step}; training needs one a token, "
            "so this server cannot be trained with."
        )
    response = response_text(policy.processor, sequence.tokens)
    truncated = sequence.stop_reason == "length"
    seed = stable_seed("reward", policy.config.train.seed, step, group, problem.id, sample)
    opens_think, tags = policy.prompter.opens_think, policy.prompter.tags
    scored = score(
        policy.config.reward,
        RewardInput(problem, response, truncated, seed, opens_think, tags),
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


def response_text(processor: Processor, tokens: Sequence[int]) -> str:
    """The text of sampled tokens without the stop token that ended them."""
    ended = bool(tokens) and tokens[-1] in processor.stop_token_ids
    return processor.decode(tokens[:-1] if ended else tokens)
