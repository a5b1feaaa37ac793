"""Rollouts and their groups: what a step samples, and the policy that it is sampled from."""

from collections.abc import Sequence
from dataclasses import dataclass

import tinker

from visual_r1.backend.waiting import Watch, nothing_to_watch
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.models.processor import Processor, load_processor
from visual_r1.policy.second_pass import Outcome, ScanReader, SecondPass, open_reader, outcome_of
from visual_r1.prices import NO_PRICES, NO_TOKENS, Prices, Tokens
from visual_r1.prompts.prompts import Prompter
from visual_r1.rewards import Scored


@dataclass(frozen=True, slots=True)
class Policy:
    """What it takes to ask some weights for answers, and to grade them.

    `reader` is there where the configuration asks for a second pass; `prices` are unknown unless
    given. `watch` is called while the server is waited for, and raises when it has died.
    """

    config: RunConfig
    processor: Processor
    prompter: Prompter
    reader: ScanReader | None
    watch: Watch = nothing_to_watch
    prices: Prices = NO_PRICES

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of sampled tokens without the stop token that ended them."""
        ended = bool(tokens) and tokens[-1] in self.processor.stop_token_ids
        return self.processor.decode(tokens[:-1] if ended else tokens)


THINKING_TOKENS = 8192
"""Thoughts of several thousand tokens are usual: until it was measured how many answers are cut
off, this much is room for one."""


def cut_thoughts(config: RunConfig, *, thinks: bool) -> str:
    """What is said where the model thinks and has little room for it; empty where all is well."""
    most = config.sampling.max_new_tokens
    if not thinks or most >= THINKING_TOKENS:
        return ""
    return (
        f"The model thinks before it answers and is cut off at {most} tokens: what is cut within "
        "its thought counts as wrong"
    )


def open_policy(
    config: RunConfig, watch: Watch = nothing_to_watch, prices: Prices = NO_PRICES
) -> Policy:
    """The policy of a run: its model's processor, its template, and its second pass if any."""
    processor = load_processor(config.model.name)
    model = config.model
    prompter = Prompter(processor, config.prompt.template, model.max_pixels, model.thinking)
    return Policy(config, processor, prompter, open_reader(config, processor), watch, prices)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response: n tokens with their n log-probabilities under the sampler.

    `tokens` end with the stop token unless `stop_reason` is "length"; `response` is their text
    without it. `second` is None where the run has no second pass; `scored` holds its bonus.
    `sequence_id` is what the server calls it, where the loss has to name it there; it means
    something in the session alone that it was sampled in.
    """

    problem_id: str
    group: int
    sample: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    response: str
    stop_reason: str
    scored: Scored
    second: SecondPass | None = None
    sequence_id: str | None = None

    @property
    def right(self) -> bool:
        """Whether the grader found the answer right; false also where it gave up."""
        return self.scored.grade.verdict == "right"

    @property
    def outcome(self) -> Outcome | None:
        """With and without which view the answer came; None without a second pass."""
        return None if self.second is None else outcome_of(self.right, self.second.right)

    @property
    def truncated(self) -> bool:
        """Whether the response ended because it was too long."""
        return self.stop_reason == "length"


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The samples of one problem in one step.

    `failed` counts samples that never came back, or whose second pass did not; they are no part of
    `rollouts`, and `failure` then holds the server's sentence. `refused` of them were refused as
    the row's own fault, too long or unreadable. `question_only` holds whether each
    answer without image and scan was right, where the run asks for them.
    The `unscored` are no part of `rollouts` either: their reward failed (the user's own function,
    or the grader), and a reward of 0 would be a reward for making it fail. `spent` are the tokens
    of all requests for this group that were answered, those of lost samples included.
    """

    problem: Problem
    prompt: tinker.ModelInput
    rollouts: tuple[Rollout, ...]
    failed: int = 0
    refused: int = 0
    failure: str = ""
    question_only: tuple[bool, ...] = ()
    unscored: tuple[Rollout, ...] = ()
    spent: Tokens = NO_TOKENS
