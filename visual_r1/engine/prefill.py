"""Prompts through the model once each: what decoding starts from, and the prompt's own scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from visual_r1.engine.base_model import BaseModel
from visual_r1.engine.batching import ROWS, chunks, round_up
from visual_r1.engine.hidden import LOGITS_AT_ONCE, hidden_states
from visual_r1.engine.requests import TopkRow
from visual_r1.engine.sampling_plan import Plan
from visual_r1.engine.tensors import floats, integers, of_array, split
from visual_r1.engine.vision import Features

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True)
class PromptScores:
    """Log-probabilities of a prompt's own tokens; the first has none."""

    logprobs: tuple[float | None, ...] | None
    topk: tuple[TopkRow | None, ...] | None


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
            scores.append(_score(base, plan, hidden[row]) if plan.scores_prompt else None)
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


def _score(base: BaseModel, plan: Plan, hidden: Tensor) -> PromptScores:
    """Score a prompt's tokens from its hidden states [P, width], padding included."""
    length, top = plan.layout.length, plan.request.topk_prompt_logprobs
    targets = torch.zeros(len(hidden), 1, dtype=torch.long)
    targets[: length - 1, 0] = of_array(plan.layout.tokens[1:])
    targets = targets.to(base.device)
    at_once = max(ROWS, LOGITS_AT_ONCE // base.vocabulary_size // ROWS * ROWS)
    own: list[float] = []
    best: list[TopkRow] = []
    for rows, wanted in zip(split(hidden, at_once), split(targets, at_once), strict=True):
        logp = torch.log_softmax(base.unembed(rows).float(), dim=-1)
        own += floats(logp.gather(-1, wanted)[:, 0])
        if top > 0:
            values, ids = logp.topk(top, dim=-1)
            best += [
                tuple(zip(integers(row_ids), floats(row_values), strict=True))
                for row_ids, row_values in zip(ids, values, strict=True)
            ]
    return PromptScores(
        logprobs=(None, *own[: length - 1]) if plan.request.prompt_logprobs else None,
        topk=(None, *best[: length - 1]) if top > 0 else None,
    )
