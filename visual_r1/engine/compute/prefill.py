"""Prompts through the model once each: what decoding starts from, and the prompt's own scores.

What the model thinks of a prompt's own tokens, and of others in their places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import (
    ROWS,
    chunks,
    floats,
    integers,
    of_array,
    round_up,
    split,
)
from visual_r1.engine.compute.drawing import alternatives, stream
from visual_r1.engine.compute.forward import LOGITS_AT_ONCE, Features, hidden_states
from visual_r1.engine.compute.sample_plan import Plan
from visual_r1.engine.types import PromptAltTokens, TopkRow

_ALTERNATIVES = 2**62
"""The stream of alternative tokens: no sample has this number."""


@dataclass(frozen=True)
class PromptScores:
    """What was asked for, of a prompt of P tokens; the first has no log-probability."""

    logprobs: tuple[float | None, ...] | None
    topk: tuple[TopkRow | None, ...] | None
    targets: np.ndarray | None
    """float32 [n], of the n target tokens."""
    alternatives: PromptAltTokens | None
    """[P - 1, k] each."""


def topk_rows(logp: Tensor, k: int) -> list[TopkRow]:
    """The k likeliest tokens of each row of log-probabilities [R, V]."""
    values, ids = logp.topk(k, dim=-1)
    return [
        tuple(zip(integers(row_ids), floats(row_values), strict=True))
        for row_ids, row_values in zip(ids, values, strict=True)
    ]


def score_prompt(base: BaseModel, plan: Plan, hidden: Tensor) -> PromptScores:
    """Score a prompt from its hidden states [P, width], padding included; row i tells of token
    i + 1.
    """
    request, last = plan.request, plan.layout.length - 1
    own = torch.zeros(len(hidden), 1, dtype=torch.long)
    own[:last, 0] = of_array(plan.layout.tokens[1:])
    own = own.to(base.device)
    wanted, k = request.target_tokens, request.prompt_alt_tokens
    uniforms = of_array(stream(plan.seed, _ALTERNATIVES).random((len(hidden), k))).to(base.device)
    at_once = max(ROWS, LOGITS_AT_ONCE // base.vocabulary_size // ROWS * ROWS)

    logprobs: list[float] = []
    topk: list[TopkRow] = []
    targets = np.zeros(0 if wanted is None else len(wanted.ids), np.float32)
    drawn: list[Tensor] = []
    drawn_logprobs: list[Tensor] = []
    start = 0
    for rows in split(hidden, at_once):
        end = start + len(rows)
        logits = base.unembed(rows).float()
        logp = torch.log_softmax(logits, dim=-1)
        logprobs += floats(logp.gather(-1, own[start:end])[:, 0])
        if request.topk_prompt_logprobs > 0:
            topk += topk_rows(logp, request.topk_prompt_logprobs)
        if wanted is not None:
            here = (wanted.rows >= start) & (wanted.rows < end)
            places = of_array(wanted.rows[here] - start).to(base.device)
            ids = of_array(wanted.ids[here]).to(base.device)
            targets[here] = logp[places, ids].cpu().numpy()  # pyright: ignore[reportUnknownMemberType]
        if k > 0:
            drawn.append(alternatives(logits, plan.settings.temperature, uniforms[start:end]))
            drawn_logprobs.append(logp.gather(-1, drawn[-1]))
        start = end
    return PromptScores(
        logprobs=(None, *logprobs[:last]) if request.prompt_logprobs else None,
        topk=(None, *topk[:last]) if request.topk_prompt_logprobs > 0 else None,
        targets=None if wanted is None else targets,
        alternatives=_alternatives(drawn, drawn_logprobs, last) if k > 0 else None,
    )


def _alternatives(drawn: list[Tensor], logprobs: list[Tensor], last: int) -> PromptAltTokens:
    together = [torch.cat(pieces)[:last].cpu() for pieces in (drawn, logprobs)]
    tokens, scores = (
        piece.numpy()  # pyright: ignore[reportUnknownMemberType]
        for piece in together
    )
    return PromptAltTokens(tokens, scores)


TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True)
class Prefill:
    """B prompts of one bucket, ready to be continued."""

    keys: list[Tensor]
    """Per layer [B, heads, P, width]."""
    values: list[Tensor]
    lengths: Tensor
    """int64 [B]."""
    logits: Tensor
    """float32 [B, V], of each prompt's first new token."""
    scores: list[PromptScores | None]


def prefill(base: BaseModel, plans: Sequence[Plan], features: Features, length: int) -> Prefill:
    """Run prompts of one bucket, each padded to `length`."""
    parts: list[tuple[list[Tensor], list[Tensor]]] = []
    last: list[Tensor] = []
    scores: list[PromptScores | None] = []
    for batch in chunks(plans, TOKENS_AT_ONCE[base.device.type] // length):
        cache: Any = DynamicCache()
        layouts = [plan.layout for plan in batch]
        hidden = hidden_states(base, layouts, features, length, cache)
        layers = cast("list[Any]", cache.layers)
        parts.append(([layer.keys for layer in layers], [layer.values for layer in layers]))
        for row, plan in enumerate(batch):
            last.append(hidden[row, plan.layout.length - 1])
            scores.append(score_prompt(base, plan, hidden[row]) if plan.scores_prompt else None)
    layer_count = len(parts[0][0])
    return Prefill(
        keys=[torch.cat([keys[layer] for keys, _ in parts]) for layer in range(layer_count)],
        values=[torch.cat([values[layer] for _, values in parts]) for layer in range(layer_count)],
        lengths=torch.tensor([plan.layout.length for plan in plans], device=base.device),
        logits=first_logits(base, torch.stack(last)),
        scores=scores,
    )


def first_logits(base: BaseModel, hidden: Tensor) -> Tensor:
    """Logits, float32 [B, V], of hidden states [B, width], with dummy rows up to a full batch."""
    rows = len(hidden)
    padded = torch.cat([hidden, hidden[:1].expand(round_up(rows, ROWS) - rows, -1)])
    return base.unembed(padded).float()[:rows]
