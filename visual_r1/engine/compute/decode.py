"""Sampling: prompts of one bucket decode together, one token a step, until all are complete.

Keys and values of sequences that decode together, one new place a step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import (
    ROWS,
    by_bucket,
    chunks,
    floats,
    integers,
    of_array,
    prompt_bucket,
    round_up,
)
from visual_r1.engine.compute.drawing import BLOCK, DrawRules, draw, stream
from visual_r1.engine.compute.forward import distinct, image_features
from visual_r1.engine.compute.prefill import Prefill, prefill, topk_rows
from visual_r1.engine.compute.sample_plan import Plan
from visual_r1.engine.types import SampledSequence, SampleOutput, StopReason, TopkRow

CACHE_BLOCK = 32
"""Room for new tokens grows by this many places.

How many padded keys a sequence carries at step t is then a function of its prompt's bucket and of t
alone, which its results depend on in the last bits.
"""


class DecodeCache:
    """Takes the place of a transformers cache for single-token steps.

    Places 0 to P − 1 hold the prompt, padded on the right; places P, P + 1, … the new tokens.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], mask: Tensor) -> None:
        """Per layer [R, heads, places, width]; `mask` float [R, 1, 1, places], 0 or −inf."""
        self._keys = list(keys)
        self._values = list(values)
        self.mask = mask
        self._next = mask.shape[-1]

    @staticmethod
    def of_prompts(
        keys: Sequence[Tensor], values: Sequence[Tensor], lengths: Tensor, rows: Tensor
    ) -> "DecodeCache":
        """Row r continues prompt rows[r] of the prefill [B, heads, P, width], lengths [B]."""
        padded = keys[0].shape[2]
        hidden = torch.arange(padded, device=lengths.device) >= lengths[rows, None]
        mask = torch.zeros(hidden.shape, dtype=keys[0].dtype, device=lengths.device)
        mask.masked_fill_(hidden, -torch.inf)
        return DecodeCache(
            [layer[rows] for layer in keys],
            [layer[rows] for layer in values],
            mask[:, None, None, :],
        )

    @property
    def is_full(self) -> bool:
        """Whether the next step needs more room."""
        return self._next == self.mask.shape[-1]

    def grow(self) -> None:
        """Add a block of room, zeroed: what is masked must still be finite."""
        extra = torch.full((*self.mask.shape[:3], CACHE_BLOCK), -torch.inf).to(self.mask)
        self.mask = torch.cat([self.mask, extra], dim=-1)
        for layers in (self._keys, self._values):
            for index, layer in enumerate(layers):
                rows, heads, _, width = layer.shape
                layers[index] = torch.cat(
                    [layer, layer.new_zeros(rows, heads, CACHE_BLOCK, width)], 2
                )

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order."""
        self.mask = self.mask[rows]
        self._keys = [layer[rows] for layer in self._keys]
        self._values = [layer[rows] for layer in self._values]

    def open_next(self) -> None:
        """Make the next place visible; the step that follows writes it."""
        self.mask[..., self._next] = 0.0
        self._next += 1

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values [R, heads, 1, width]."""
        self._keys[layer][:, :, self._next - 1 : self._next] = keys
        self._values[layer][:, :, self._next - 1 : self._next] = values
        return self._keys[layer], self._values[layer]


SEQUENCES_AT_ONCE = 256
CACHE_BYTES = {"cpu": 2**30, "cuda": 8 * 2**30}
"""Room for the keys and values of sequences that decode together."""

COMPACT_BELOW = 0.75
"""Finished sequences are dropped when the rest would fill no more than this share of the rows."""


@dataclass
class Answer:
    """One sample in the making."""

    prompt: int
    """Index of its plan among those that were prefilled together."""
    plan: Plan
    generator: np.random.Generator
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    topk: list[TopkRow] = field(default_factory=list[TopkRow])
    stop_reason: StopReason | None = None

    @property
    def topk_wanted(self) -> int:
        """How many of the likeliest tokens to report a token."""
        return self.plan.request.topk_sample_logprobs

    def sequence(self, stop_reason: StopReason) -> SampledSequence:
        """The finished sample."""
        return SampledSequence(
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            stop_reason=stop_reason,
            topk=tuple(self.topk) if self.topk_wanted else None,
        )

    def append(self, token: int, logprob: float, likeliest: TopkRow) -> None:
        """Take the next token, and see whether it is the last."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.topk.append(likeliest[: self.topk_wanted])
        if self.plan.stop.completes(self.tokens):
            self.stop_reason = "stop"
        elif len(self.tokens) == self.plan.max_tokens:
            self.stop_reason = "length"


def sample(base: BaseModel, plans: Sequence[Plan]) -> list[SampleOutput]:
    """Answer all plans with the weights that are bound to the network, in the given order."""
    outputs: list[SampleOutput | None] = [None] * len(plans)
    with torch.no_grad():
        features = image_features(base, distinct(i for plan in plans for i in plan.layout.images))
        buckets = [prompt_bucket(plan.layout.length) for plan in plans]
        for length, indices in by_bucket(buckets).items():
            for chosen in _pieces(base, plans, indices, length):
                together = [plans[index] for index in chosen]
                prompts = prefill(base, together, features, length)
                for index, output in zip(chosen, _answer(base, together, prompts), strict=True):
                    outputs[index] = output
    return [output for output in outputs if output is not None]


def _pieces(
    base: BaseModel, plans: Sequence[Plan], indices: Sequence[int], length: int
) -> Iterator[list[int]]:
    """Runs of plans whose samples fit together into rows and cache (a plan is never split here)."""
    piece: list[int] = []
    rows, longest = 0, 0
    for index in indices:
        plan = plans[index]
        rows += plan.request.num_samples
        longest = max(longest, plan.max_tokens)
        if piece and rows > _row_limit(base, length + longest):
            yield piece
            piece, rows, longest = [], plan.request.num_samples, plan.max_tokens
        piece.append(index)
    if piece:
        yield piece


def _row_limit(base: BaseModel, places: int) -> int:
    budget = CACHE_BYTES[base.device.type] // (base.cache_bytes_per_token * places)
    return max(ROWS, min(SEQUENCES_AT_ONCE, budget))


def _answer(base: BaseModel, plans: Sequence[Plan], prompts: Prefill) -> Iterator[SampleOutput]:
    answers = [
        Answer(prompt, plan, stream(plan.seed, sample))
        for prompt, plan in enumerate(plans)
        for sample in range(plan.request.num_samples)
    ]
    length = prompts.keys[0].shape[2]
    longest = max(plan.max_tokens for plan in plans)
    for together in chunks(answers, _row_limit(base, length + longest)):
        _Decoding(base, together, prompts).run()
    for prompt, plan in enumerate(plans):
        scores = prompts.scores[prompt]
        yield SampleOutput(
            sequences=tuple(
                a.sequence(a.stop_reason)
                for a in answers[: plan.request.num_samples]
                if a.stop_reason is not None
            ),
            prompt_logprobs=scores.logprobs if scores else None,
            topk_prompt_logprobs=scores.topk if scores else None,
            target_logprobs=scores.targets if scores else None,
            prompt_alt_tokens=scores.alternatives if scores else None,
        )
        del answers[: plan.request.num_samples]


class _Decoding:
    """Sequences in lockstep. Rows are answers, then dummies up to a multiple of 16."""

    def __init__(self, base: BaseModel, answers: Sequence[Answer], prompts: Prefill) -> None:
        self._base = base
        self._rows: list[Answer] = list(answers)
        source = self._indices([answer.prompt for answer in answers])
        self._cache = DecodeCache.of_prompts(prompts.keys, prompts.values, prompts.lengths, source)
        self._logits = prompts.logits[source]
        starts = [plan.plan.layout.next_position for plan in answers]
        self._positions = torch.tensor(starts, device=base.device)[self._padded(len(answers))]
        self._step = 0
        self._prepare_draws()

    def run(self) -> None:
        """Decode until every answer is complete."""
        while True:
            tokens = self._draw()
            alive = [row for row, answer in enumerate(self._rows) if answer.stop_reason is None]
            if not alive:
                return
            if round_up(len(alive), ROWS) <= COMPACT_BELOW * len(tokens):
                tokens = tokens[self._keep(alive)]
            if self._cache.is_full:
                self._cache.grow()
            self._forward(tokens)
            self._step += 1
            if self._step % BLOCK == 0:
                self._prepare_uniforms()

    def _draw(self) -> Tensor:
        """Draw one token a row, and give it to the answers that are not complete."""
        tokens = draw(self._logits, self._rules, self._uniforms[:, self._step % BLOCK])
        logp = torch.log_softmax(self._logits, dim=-1)
        chosen = floats(logp.gather(-1, tokens[:, None])[:, 0])
        widest = max(answer.topk_wanted for answer in self._rows)
        likeliest = topk_rows(logp, widest) if widest else [()] * len(logp)
        drawn = zip(self._rows, integers(tokens), chosen, likeliest, strict=False)
        for answer, token, logprob, others in drawn:
            if answer.stop_reason is None:
                answer.append(token, logprob, others)
        return tokens

    def _forward(self, tokens: Tensor) -> None:
        """One step: the tokens enter the cache, and the logits of the next ones come out."""
        self._cache.open_next()
        positions = (self._positions + self._step).expand(3, -1)[..., None]
        hidden = self._base.language_model(
            inputs_embeds=self._base.embed(tokens[:, None]),
            position_ids=positions,
            attention_mask=self._cache.mask,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._logits = self._base.unembed(hidden[:, 0]).float()

    def _keep(self, alive: Sequence[int]) -> Tensor:
        """Drop complete answers; returns the row that each row was."""
        rows = self._indices(alive)
        self._cache.keep(rows)
        self._positions = self._positions[rows]
        self._uniforms = self._uniforms[rows]
        self._rows = [self._rows[row] for row in alive]
        self._rules = self._draw_rules()
        return rows

    def _indices(self, rows: Sequence[int]) -> Tensor:
        """Rows, then the first of them again as dummies."""
        return torch.tensor(rows, device=self._base.device)[self._padded(len(rows))]

    def _padded(self, count: int) -> Tensor:
        index = torch.arange(round_up(count, ROWS), device=self._base.device)
        return torch.where(index < count, index, 0)

    def _prepare_draws(self) -> None:
        self._rules = self._draw_rules()
        self._prepare_uniforms()

    def _draw_rules(self) -> DrawRules:
        settings = [answer.plan.settings for answer in self._rows]
        settings += [settings[0]] * (round_up(len(settings), ROWS) - len(settings))
        return DrawRules.of(settings, self._base.vocabulary_size, self._base.device)

    def _prepare_uniforms(self) -> None:
        drawn = np.zeros((round_up(len(self._rows), ROWS), BLOCK))
        for row, answer in enumerate(self._rows):
            drawn[row] = answer.generator.random(BLOCK)
        self._uniforms = of_array(drawn).to(self._base.device)
