"""Prompts through the model once each: what decoding starts from, and the prompt's own scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from visual_r1.engine.base_model import BaseModel
from visual_r1.engine.batching import ROWS, chunks, round_up
from visual_r1.engine.hidden import hidden_states
from visual_r1.engine.prompt_scores import PromptScores, score_prompt
from visual_r1.engine.sampling_plan import Plan
from visual_r1.engine.vision import Features

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
