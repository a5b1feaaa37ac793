"""Keys and values of sequences that decode together, one new place a step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
