"""What attention keeps of the places before: keys and values, where they outlive a pass.

The keys and values of prompts are recorded in the pass that computes them (`PromptCache`). Then
either the answers of a training batch read them (`ContinuedCache`), or they are copied into rows
that decode, one new place a step (`DecodeCache`). The last two stand in for a transformers cache:
each attention layer calls `update` with the keys and values of its new places, and gets back those
that it is to look at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from transformers import DynamicCache

KeysAndValues: TypeAlias = tuple[Tensor, Tensor]
"""Of one layer: [B, heads, places, width] each."""

BLOCK = 32
"""Room for new tokens grows by this many places.

How many padded keys a sequence carries at step t is then a function of its prompt's bucket and of t
alone, which its results depend on in the last bits.
"""


@dataclass(frozen=True)
class PromptCache:
    """Keys and values of B prompts of P places, padding included."""

    layers: Sequence[KeysAndValues]

    @staticmethod
    def recorded(recording: DynamicCache) -> "PromptCache":
        """What a pass over prompts left in `recording`."""
        layers = cast("list[Any]", recording.layers)
        return PromptCache([(layer.keys, layer.values) for layer in layers])

    @staticmethod
    def joined(parts: Sequence["PromptCache"]) -> "PromptCache":
        """The prompts of all parts, one part behind the other."""
        by_layer = zip(*(part.layers for part in parts), strict=True)
        return PromptCache(
            [
                (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
                for layer in by_layer
            ]
        )

    @property
    def places(self) -> int:
        """P."""
        return self.layers[0][0].shape[2]

    def rows(self, index: Tensor) -> "PromptCache":
        """Row r of the result is prompt index[r]."""
        return self.map(lambda tensor: tensor[index])

    def map(self, change: Callable[[Tensor], Tensor]) -> "PromptCache":
        """All keys and values, changed one by one."""
        return PromptCache([(change(keys), change(values)) for keys, values in self.layers])

    def tensors(self) -> list[Tensor]:
        """Keys and values of all layers, in the order of the layers."""
        return [tensor for layer in self.layers for tensor in layer]


class ContinuedCache:
    """Each layer sees the prompt's keys and values before its own, which nobody keeps."""

    def __init__(self, prompts: PromptCache) -> None:
        """Row r continues prompt r."""
        self._layers = prompts.layers

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values [R, heads, L, width]."""
        before, values_before = self._layers[layer]
        return torch.cat([before, keys], dim=2), torch.cat([values_before, values], dim=2)


class DecodeCache:
    """Places 0 to P − 1 hold the prompt, padded on the right; places P, P + 1, … the new tokens."""

    def __init__(self, prompts: PromptCache, lengths: Tensor) -> None:
        """Row r continues prompt r, of which the first lengths[r] (int64 [R]) are no padding."""
        self._keys = [keys for keys, _ in prompts.layers]
        self._values = [values for _, values in prompts.layers]
        padding = torch.arange(prompts.places, device=lengths.device) >= lengths[:, None]
        mask = torch.zeros(padding.shape, dtype=self._keys[0].dtype, device=lengths.device)
        self.mask = mask.masked_fill_(padding, -torch.inf)[:, None, None, :]
        """[R, 1, 1, places], 0 where a place is seen, else −inf."""
        self._next = prompts.places

    def open_next(self) -> None:
        """Make the next place visible; the step that follows writes it."""
        if self._next == self.mask.shape[-1]:
            self._grow()
        self.mask[..., self._next] = 0.0
        self._next += 1

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values [R, heads, 1, width]."""
        self._keys[layer][:, :, self._next - 1 : self._next] = keys
        self._values[layer][:, :, self._next - 1 : self._next] = values
        return self._keys[layer], self._values[layer]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order."""
        self.mask = self.mask[rows]
        self._keys = [layer[rows] for layer in self._keys]
        self._values = [layer[rows] for layer in self._values]

    def _grow(self) -> None:
        """Add a block of room, zeroed: what is masked must still be finite, or 0 · inf is a nan."""
        extra = torch.full((*self.mask.shape[:3], BLOCK), -torch.inf).to(self.mask)
        self.mask = torch.cat([self.mask, extra], dim=-1)
        for layers in (self._keys, self._values):
            for index, layer in enumerate(layers):
                rows, heads, _, width = layer.shape
                layers[index] = torch.cat([layer, layer.new_zeros(rows, heads, BLOCK, width)], 2)
