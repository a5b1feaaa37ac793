"""What layers keep of the places before, where it outlives a pass.

A layer keeps one of two kinds of things. Attention keeps keys and values, which grow by every
place; a recurrent layer keeps a state of one size, whatever it has read. Which a layer keeps shows
in what it calls: attention `update`, a recurrent layer `state` and `keep_state`, with whatever
tensors its family puts there.

What prompts leave is recorded in the pass that computes them (`RecordingCache`, `PromptCache`), and
copied into rows that decode, one new place a step (`DecodeCache`). Both stand in for a transformers
cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor
from transformers import DynamicCache

State: TypeAlias = tuple[Tensor, ...]
"""Of one recurrent layer: tensors of one size, each with a row [B, …] a sequence."""

BLOCK = 32
"""Room for new tokens grows by this many places.

How many padded keys a sequence carries at step t is then a function of its prompt's bucket and of t
alone, which its results depend on in the last bits.
"""


@dataclass(frozen=True)
class CacheBytes:
    """What all layers together keep of a sequence."""

    per_place: int
    """Keys and values of one place."""
    per_sequence: int = 0
    """Recurrent states, however long it is."""

    def of(self, places: int) -> int:
        """What a sequence of so many places takes."""
        return self.per_place * places + self.per_sequence


class StateCache(Protocol):
    """What a recurrent layer is given as its cache."""

    lengths: Tensor | None
    """int64 [B]: row r reads so many places in this pass, and what follows is padding that its
    state must not take in. None where the state is not asked for, or nothing is padded."""

    def state(self, layer: int) -> State | None:
        """What the layer kept of the places before; None at the start of a sequence."""
        ...

    def keep_state(self, layer: int, state: State) -> None:
        """What the layer keeps from now on."""
        ...


@dataclass(frozen=True)
class Kept:
    """What one layer keeps of B sequences."""

    tensors: tuple[Tensor, ...]
    grows: bool
    """Whether these are keys and values, [B, heads, places, width] each, or a `State`."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Kept":
        """All tensors, changed one by one."""
        return Kept(tuple(change(tensor) for tensor in self.tensors), self.grows)


@dataclass(frozen=True)
class PromptCache:
    """What the layers keep of B prompts of P places, padding included."""

    layers: Sequence[Kept]
    places: int
    """P."""

    @staticmethod
    def joined(parts: Sequence["PromptCache"]) -> "PromptCache":
        """The prompts of all parts, one part behind the other."""
        layers: list[Kept] = []
        for layer in zip(*(part.layers for part in parts), strict=True):
            columns = zip(*(kept.tensors for kept in layer), strict=True)
            layers.append(Kept(tuple(torch.cat(column) for column in columns), layer[0].grows))
        return PromptCache(layers, parts[0].places)

    def rows(self, index: Tensor) -> "PromptCache":
        """Row r of the result is prompt index[r]."""
        return self.map(lambda tensor: tensor[index])

    def map(self, change: Callable[[Tensor], Tensor]) -> "PromptCache":
        """All tensors of all layers, changed one by one."""
        return PromptCache([layer.map(change) for layer in self.layers], self.places)

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the layers."""
        return [tensor for layer in self.layers for tensor in layer.tensors]


class RecordingCache(DynamicCache):
    """Records what a pass over whole prompts leaves; transformers derives its masks from it."""

    def __init__(self, lengths: Tensor) -> None:
        """`lengths` int64 [B] are the prompts' own, without the padding behind them."""
        super().__init__()
        self.lengths: Tensor | None = lengths
        self._states: dict[int, State] = {}

    def state(self, layer: int) -> State | None:
        """A prompt has nothing before it."""
        del layer
        return None

    def keep_state(self, layer: int, state: State) -> None:
        """As it is behind each prompt's own last place."""
        self._states[layer] = state

    def recorded(self, places: int) -> PromptCache:
        """What the pass left of prompts that were padded to so many places."""
        attention = cast("list[Any]", self.layers)
        count = max(len(attention), 1 + max(self._states, default=-1))
        return PromptCache(
            [
                Kept(self._states[layer], grows=False)
                if layer in self._states
                else Kept((attention[layer].keys, attention[layer].values), grows=True)
                for layer in range(count)
            ],
            places,
        )


class DecodeCache:
    """Places 0 to P − 1 hold the prompt, padded on the right; places P, P + 1, … the new tokens."""

    lengths: Tensor | None = None

    def __init__(self, prompts: PromptCache, lengths: Tensor, dtype: torch.dtype) -> None:
        """Row r continues prompt r, of which the first lengths[r] (int64 [R]) are no padding."""
        self._layers = list(prompts.layers)
        padding = torch.arange(prompts.places, device=lengths.device) >= lengths[:, None]
        mask = torch.zeros(padding.shape, dtype=dtype, device=lengths.device)
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
        all_keys, all_values = self._layers[layer].tensors
        all_keys[:, :, self._next - 1 : self._next] = keys
        all_values[:, :, self._next - 1 : self._next] = values
        return all_keys, all_values

    def state(self, layer: int) -> State:
        """As the step before left it."""
        return self._layers[layer].tensors

    def keep_state(self, layer: int, state: State) -> None:
        """With the new token read."""
        self._layers[layer] = Kept(state, grows=False)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order."""
        self.mask = self.mask[rows]
        self._layers = [layer.map(lambda tensor: tensor[rows]) for layer in self._layers]

    def _grow(self) -> None:
        """Add a block of room, zeroed: what is masked must still be finite, or 0 · inf is a nan."""
        extra = torch.full((*self.mask.shape[:3], BLOCK), -torch.inf).to(self.mask)
        self.mask = torch.cat([self.mask, extra], dim=-1)

        def wider(tensor: Tensor) -> Tensor:
            rows, heads, _, width = tensor.shape
            return torch.cat([tensor, tensor.new_zeros(rows, heads, BLOCK, width)], 2)

        self._layers = [layer.map(wider) if layer.grows else layer for layer in self._layers]
