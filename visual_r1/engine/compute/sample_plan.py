"""Sample requests, checked and completed before anything is computed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.prompts import ImageReader, Layout, lay_out
from visual_r1.engine.compute.sampling import fresh_seed
from visual_r1.engine.types import InvalidRequest, SampleRequest, SamplingSettings, TargetTokens

MAX_SAMPLES = 4096


@dataclass(frozen=True)
class StopRule:
    """When an answer is complete."""

    tokens: frozenset[int]
    strings: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest stop string."""
        return max(len(string.encode()) for string in self.strings)

    def completes(self, answer: Sequence[int]) -> bool:
        """Whether the last token of `answer` ends it, by its id or by completing a stop string.

        A stop string of n bytes ends in the last token and so lies in the last n tokens, wherever
        the boundaries between them are: a token is at least one byte.
        """
        if answer[-1] in self.tokens:
            return True
        if not self.strings:
            return False
        text = self.decode(answer[-self.longest :])
        return any(string in text for string in self.strings)


@dataclass(frozen=True)
class SamplePlan:
    """A sample request that can be served, completed."""

    request: SampleRequest
    layout: Layout
    max_tokens: int
    seed: int
    stop: StopRule

    @property
    def settings(self) -> SamplingSettings:
        """How to sample."""
        return self.request.settings


def plan_request(base: BaseModel, images: ImageReader, request: SampleRequest) -> SamplePlan:
    """Check one request; raises `InvalidRequest` with what is wrong and what would do."""
    settings = request.settings
    _check(request, base.vocabulary_size)
    layout = lay_out(base, images, request.prompt)
    targets = request.target_tokens
    if targets is not None:
        _check_targets(targets, layout.length, base.vocabulary_size)
    room = base.context_length - layout.length
    max_tokens = room if settings.max_tokens is None else settings.max_tokens
    if max_tokens > room or (room < 1 and request.num_samples > 0):
        raise InvalidRequest(
            f"the prompt has {layout.length} tokens, images included, and max_tokens is "
            f"{max_tokens}; together they must fit the model's context of {base.context_length}."
        )
    at_eos = base.processor.stop_token_ids if settings.stop_at_eos else ()
    return SamplePlan(
        request=request,
        layout=layout,
        max_tokens=max_tokens,
        seed=fresh_seed() if settings.seed is None else settings.seed,
        stop=StopRule(
            frozenset((*settings.stop_tokens, *at_eos)),
            settings.stop_strings,
            base.processor.decode,
        ),
    )


def _check(request: SampleRequest, vocabulary_size: int) -> None:
    settings = request.settings
    if settings.max_tokens is not None and settings.max_tokens < 1:
        raise InvalidRequest(f"max_tokens is {settings.max_tokens}; ask for at least 1.")
    if not (math.isfinite(settings.temperature) and settings.temperature >= 0):
        raise InvalidRequest(
            f"temperature is {settings.temperature}; it is 0 (greedy) or a positive number."
        )
    if not 0 < settings.top_p <= 1:
        raise InvalidRequest(f"top_p is {settings.top_p}; it lies in (0, 1], and 1 is off.")
    if settings.top_k < -1:
        raise InvalidRequest(f"top_k is {settings.top_k}; it is positive, or -1 for off.")
    if "" in settings.stop_strings:
        raise InvalidRequest("a stop string is empty; every answer would end at once.")
    if not 0 <= request.num_samples <= MAX_SAMPLES:
        raise InvalidRequest(
            f"num_samples is {request.num_samples}; 0 to {MAX_SAMPLES} are served a request."
        )
    if request.num_samples == 0 and not request.scores_prompt:
        raise InvalidRequest(
            "num_samples is 0 and nothing of the prompt is asked for: ask for a sample, or for "
            "the prompt's log-probabilities."
        )
    for name, count in (
        ("topk_prompt_logprobs", request.topk_prompt_logprobs),
        ("topk_sample_logprobs", request.topk_sample_logprobs),
        ("prompt_alt_tokens_k", request.prompt_alt_tokens),
    ):
        if not 0 <= count <= vocabulary_size:
            raise InvalidRequest(f"{name} is {count}; the vocabulary has {vocabulary_size} tokens.")


def _check_targets(targets: TargetTokens, length: int, vocabulary_size: int) -> None:
    if targets.positions != length - 1:
        raise InvalidRequest(
            f"target_prompt_logprobs has {targets.positions} rows; the prompt has {length} tokens, "
            f"images included, so it takes {length - 1}."
        )
    if targets.ids.max() >= vocabulary_size:
        raise InvalidRequest(
            f"target_prompt_logprobs names the token {targets.ids.max()}; the model has ids 0 to "
            f"{vocabulary_size - 1}."
        )
