"""Whole prompts over the weights of a lean step: an adapter is in them, and no module is called.

Of equal length with their padding, and all of them beginning at place 0. The numbers are those of
the modules up to rounding; on a CPU in float32 a prompt's are the same bits whatever is beside it,
since its rows are a multiple of 16 (see `batching`) and its places are its own bucket's.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from visual_r1.engine.compute.batching import split
from visual_r1.engine.compute.cache import Kept, PromptCache
from visual_r1.engine.compute.families.lean_stack import Layer, LeanStack, Rotation


class PromptPass:
    """One pass over B prompts of P places, by a stack that computes alone."""

    def __init__(self, stack: LeanStack, embeddings: Tensor, positions: Tensor) -> None:
        """Embeddings [B, P, width] at positions int64 [3, B, P]."""
        self._stack = stack
        self._shape = embeddings.shape[:2]
        self._hidden = embeddings.flatten(0, 1).clone()
        cos, sin = stack.rotary(embeddings, positions)
        low, high = split(sin.flatten(0, 1), stack.width // 2, dim=1)
        rows, width = self._hidden.shape
        self._heads = stack.heads + stack.key_heads
        self._rotation = Rotation(cos.flatten(0, 1), -low, high, self._heads)
        empty = embeddings.new_empty
        self._normed, self._root = empty(rows, width), empty(rows, 1)
        self._heads_root = empty(rows, self._heads, 1)
        self._kept: list[Kept] = []

    def run(self, further: Mapping[str, Any]) -> tuple[Tensor, PromptCache]:
        """Final hidden states [B, P, width], and what the layers keep.

        `further` is what the family gives the text stack beside the embeddings.
        """
        is_image: Tensor | None = further.get("visual_pos_masks")
        added: list[Tensor] = further.get("deepstack_visual_embeds", [])
        for number, layer in enumerate(self._stack.layers):
            self._layer(layer)
            if is_image is not None and number < len(added):
                self._hidden[is_image.flatten()] += added[number]
        norm = self._stack.norm
        normed = norm.alone_into(self._hidden, self._normed, self._root)
        final = normed if norm.applies_weight else normed.mul_(norm.weight)
        return final.view(*self._shape, -1), PromptCache(self._kept, self._shape[1])

    def _layer(self, layer: Layer) -> None:
        hidden, empty = self._hidden, self._hidden.new_empty
        rows = len(hidden)
        normed = layer.before_attention.alone_into(hidden, self._normed, self._root)
        attended = self._attended(layer, layer.qkv.of(normed))
        layer.output.onto(attended, hidden, empty(rows, layer.output.rank))
        normed = layer.before_mlp.alone_into(hidden, self._normed, self._root)
        if layer.mixture is not None:
            hidden.add_(layer.mixture(normed))
        if layer.gate_up is None or layer.down is None:
            return
        both = layer.gate_up.of(normed)
        gate, up = split(both, both.shape[1] // 2, dim=1)
        gated = functional.silu(gate).mul_(up)
        layer.down.onto(gated, hidden, empty(rows, layer.down.rank))

    def _attended(self, layer: Layer, qkv: Tensor) -> Tensor:
        """[B * P, heads * width]; keys and values are kept."""
        stack = self._stack
        by_head = qkv.view(len(qkv), -1, stack.width)
        rotation = self._rotation
        layer.heads_norm.alone_into(by_head[:, : self._heads], rotation.straight, self._heads_root)
        rotation.turn()
        queries, keys = split(rotation.turned, [stack.heads, stack.key_heads], dim=1)
        queries, keys, values = (
            one.view(*self._shape, -1, stack.width).transpose(1, 2)
            for one in (queries, keys, by_head[:, self._heads :])
        )
        # Copies: the next layer is computed in the same memory.
        keys, values = keys.contiguous(), values.contiguous()
        self._kept.append(Kept((keys, values), grows=True))
        # Queries are scaled already.
        attended = functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=1.0, enable_gqa=True
        )
        return attended.transpose(1, 2).reshape(len(qkv), -1)
