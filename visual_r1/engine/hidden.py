"""Laid-out prompts to final hidden states, and hidden states to log-probabilities."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import checkpoint

from visual_r1.engine.base_model import BaseModel
from visual_r1.engine.layout import Layout
from visual_r1.engine.tensors import of_array, split
from visual_r1.engine.vision import Features

LOGITS_AT_ONCE = 2**25
"""Logits held at a time (128 MiB in float32); more rows are computed in pieces."""


def hidden_states(
    base: BaseModel,
    layouts: Sequence[Layout],
    features: Features,
    length: int,
    cache: Any = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Hidden states [B, length, hidden] of layouts padded on the right to `length`.

    Attention is causal, so the padding behind a sequence is never seen by it and needs no mask. A
    transformers cache, where given, receives keys and values of all places, padding included; one
    that holds places already needs a `mask` [B, 1, length, all places], 0 or −inf.
    """
    tokens = torch.zeros(len(layouts), length, dtype=torch.long)
    positions = torch.zeros(3, len(layouts), length, dtype=torch.long)
    is_image = torch.zeros(len(layouts), length, dtype=torch.bool)
    for row, layout in enumerate(layouts):
        tokens[row, : layout.length] = of_array(layout.tokens)
        positions[:, row, : layout.length] = of_array(layout.positions)
        is_image[row, : layout.length] = of_array(layout.is_image)
    embeddings = base.embed(tokens.to(base.device))
    visual: dict[str, Any] = {}
    shown = [features[image.digest] for layout in layouts for image in layout.images]
    if shown:
        where = is_image.to(base.device)
        together = torch.cat(shown, dim=1).to(embeddings.dtype)
        embeddings = embeddings.masked_scatter(where[..., None], together[0])
        visual = {"visual_pos_masks": where, "deepstack_visual_embeds": list(together[1:])}
    output = base.language_model(
        inputs_embeds=embeddings,
        position_ids=positions.to(base.device),
        attention_mask=mask,
        past_key_values=cache,
        use_cache=cache is not None,
        **visual,
    )
    return output.last_hidden_state


def target_logprobs(base: BaseModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities, float32 [rows, K], of `targets` [rows, K] given `hidden` [rows, width].

    With a large vocabulary the rows are computed in pieces whose logits are not kept for the
    backward pass, but computed again there.
    """
    at_once = max(16, LOGITS_AT_ONCE // base.vocabulary_size // 16 * 16)

    def piece(rows: Tensor, wanted: Tensor) -> Tensor:
        logits = base.unembed(rows).float()
        return torch.log_softmax(logits, dim=-1).gather(-1, wanted)

    if len(hidden) <= at_once:
        return piece(hidden, targets)
    run = cast(Callable[..., Tensor], cast(Any, checkpoint).checkpoint)
    pieces = [
        run(piece, rows, wanted, use_reentrant=False)
        for rows, wanted in zip(split(hidden, at_once), split(targets, at_once), strict=True)
    ]
    return torch.cat(pieces)
