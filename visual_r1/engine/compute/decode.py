"""Sampling: prompts of one bucket decode together, one token a step, until all are complete."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import (
    ROWS,
    floats,
    integers,
    of_array,
    round_up,
)
from visual_r1.engine.compute.cache import DecodeCache
from visual_r1.engine.compute.prefill import Prefill
from visual_r1.engine.compute.sample_plan import SamplePlan
from visual_r1.engine.compute.sampling import (
    NUMBERS_AT_ONCE,
    SamplingRules,
    likeliest,
    next_tokens,
)
from visual_r1.engine.types import SampledSequence, StopReason, TopkRow

SEQUENCES_AT_ONCE = 256
"""Rows that decode in lockstep, at most."""

CACHE_BYTES = {"cpu": 2**30, "cuda": 8 * 2**30}
"""Room for what the layers keep of sequences that decode together."""

COMPACT_BELOW = 0.75
"""Finished sequences are dropped when the rest would fill no more than this share of the rows.

Dropping copies the cache of all that stay, so it is not done for a row or two.
"""


@dataclass
class OpenSequence:
    """One sample in the making."""

    plan: SamplePlan
    generator: np.random.Generator
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    topk: list[TopkRow] = field(default_factory=list[TopkRow])
    stop_reason: StopReason | None = None
    """None until it is complete."""

    @property
    def topk_wanted(self) -> int:
        """How many of the likeliest tokens to report a token."""
        return self.plan.request.topk_sample_logprobs

    def append(self, token: int, logprob: float, likeliest_tokens: TopkRow) -> None:
        """Take the next token, and see whether it is the last."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.topk.append(likeliest_tokens[: self.topk_wanted])
        if self.plan.stop.completes(self.tokens):
            self.stop_reason = "stop"
        elif len(self.tokens) == self.plan.max_tokens or self.plan.request.abandoned.is_set():
            self.stop_reason = "length"

    def closed(self) -> SampledSequence:
        """The finished sample."""
        assert self.stop_reason is not None
        return SampledSequence(
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            stop_reason=self.stop_reason,
            topk=tuple(self.topk) if self.topk_wanted else None,
        )


def row_limit(base: BaseModel, places: int) -> int:
    """How many rows of so many places may decode together."""
    budget = CACHE_BYTES[base.device.type] // base.cache_bytes.of(places)
    return max(ROWS, min(SEQUENCES_AT_ONCE, budget))


class Decoding:
    """Sequences in lockstep. Rows are sequences, then dummies up to a multiple of 16."""

    def __init__(
        self, base: BaseModel, sequences: Sequence[tuple[int, OpenSequence]], prompts: Prefill
    ) -> None:
        """Each sequence continues its prompt of the prefill, whose place is named."""
        self._base = base
        self._sequences = [one for _, one in sequences]
        source = self._rows([place for place, _ in sequences])
        lengths = prompts.lengths[source]
        self._cache = DecodeCache(prompts.cache.rows(source), lengths, base.dtype)
        self.logits = prompts.logits[source]
        """float32 [R, V] of each row's next token."""
        self._axes = len(self._sequences[0].plan.layout.positions)
        self._starts = self._rows([one.plan.layout.next_position for one in self._sequences])
        self._step = 0
        self._rules = self._sampling_rules()
        self._uniforms = self._next_uniforms()

    @property
    def finished(self) -> bool:
        """Whether every sequence is complete."""
        return all(one.stop_reason is not None for one in self._sequences)

    def run(self, steps: int) -> None:
        """Decode so many tokens, or until every sequence is complete."""
        for _ in range(steps):
            tokens = self.choose()
            # The last token of a sequence is never computed: nothing comes behind it.
            alive = [row for row, one in enumerate(self._sequences) if one.stop_reason is None]
            if not alive:
                return
            if round_up(len(alive), ROWS) <= COMPACT_BELOW * len(tokens):
                tokens = tokens[self._keep(alive)]
            self._forward(tokens)
            self._step += 1
            if self._step % NUMBERS_AT_ONCE == 0:
                self._uniforms = self._next_uniforms()

    def choose(self) -> Tensor:
        """Choose one token a row, and give it to the sequences that are not complete."""
        uniforms = self._uniforms[:, self._step % NUMBERS_AT_ONCE]
        tokens = next_tokens(self.logits, self._rules, uniforms)
        logp = torch.log_softmax(self.logits, dim=-1)
        chosen = floats(logp.gather(-1, tokens[:, None])[:, 0])
        widest = max(one.topk_wanted for one in self._sequences)
        others = likeliest(logp, widest) if widest else [()] * len(logp)
        # Not strict: the rows end with dummies.
        for one, token, logprob, row in zip(
            self._sequences, integers(tokens), chosen, others, strict=False
        ):
            if one.stop_reason is None:
                one.append(token, logprob, row)
        return tokens

    def _forward(self, tokens: Tensor) -> None:
        """One step: the tokens enter the cache, and the logits of the next ones come out."""
        self._cache.open_next()
        positions = (self._starts + self._step).expand(self._axes, -1)[..., None]
        hidden = self._base.text_stack(
            inputs_embeds=self._base.embed(tokens[:, None]),
            position_ids=positions,
            attention_mask=self._cache.mask,
            cache=self._cache,
            use_cache=True,
        ).last_hidden_state
        self.logits = self._base.unembed(hidden[:, 0]).float()

    def _keep(self, alive: Sequence[int]) -> Tensor:
        """Drop complete sequences; returns the row that each row was."""
        rows = self._rows(alive)
        self._cache.keep(rows)
        self._starts = self._starts[rows]
        self._uniforms = self._uniforms[rows]
        self._sequences = [self._sequences[row] for row in alive]
        self._rules = self._sampling_rules()
        return rows

    def _rows(self, values: Sequence[int]) -> Tensor:
        """One value a sequence, then the first of them again for the dummies; int64 [R]."""
        dummies = round_up(len(values), ROWS) - len(values)
        return torch.tensor([*values, *[values[0]] * dummies], device=self._base.device)

    def _sampling_rules(self) -> SamplingRules:
        settings = [one.plan.settings for one in self._sequences]
        settings += [settings[0]] * (round_up(len(settings), ROWS) - len(settings))
        return SamplingRules.of(settings, self._base.vocabulary_size, self._base.device)

    def _next_uniforms(self) -> Tensor:
        """float64 [R, NUMBERS_AT_ONCE] of the sequences' streams; dummies have zeros."""
        numbers = np.zeros((round_up(len(self._sequences), ROWS), NUMBERS_AT_ONCE))
        for row, one in enumerate(self._sequences):
            numbers[row] = one.generator.random(NUMBERS_AT_ONCE)
        return of_array(numbers).to(self._base.device)
