"""What layers keep of the places before, where it outlives a pass.

A layer keeps one of two kinds of things. Attention keeps keys and values, which grow by every
place; a recurrent layer keeps a state of one size, whatever it has read. Which a layer keeps shows
in what it calls: attention `update`, a recurrent layer `state` and `keep_state`, with whatever
tensors its family puts there.

What prompts leave is recorded in the pass that computes them (`RecordingCache`, `PromptCache`), and
copied into rows that decode, one new place a step (`RowCache`). Both stand in for a transformers
cache.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from visual_r1.engine.compute.batching import ROWS, round_up

State: TypeAlias = tuple[Tensor, ...]
"""Of one recurrent layer: tensors of one size, each with a row [B, …] a sequence."""

BLOCK = 32
"""Room for new tokens grows by this many places.

On a CPU in float32 attention comes out the same however many padded keys it looks at, as long as
keys are a multiple of 32 (measured up to 1,100 of them, at widths of 32, 64 and 128).
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
    identity: object = field(default_factory=object)
    """Tells these prompts from others, for whoever does not keep what the layers hold of them."""

    @staticmethod
    def joined(parts: Sequence["PromptCache"]) -> "PromptCache":
        """The prompts of all parts, one part behind the other."""
        layers: list[Kept] = []
        for layer in zip(*(part.layers for part in parts), strict=True):
            columns = zip(*(kept.tensors for kept in layer), strict=True)
            layers.append(Kept(tuple(torch.cat(column) for column in columns), layer[0].grows))
        return PromptCache(layers, parts[0].places)


PromptReader: TypeAlias = Callable[[Tensor, Tensor, Mapping[str, Any]], tuple[Tensor, PromptCache]]
"""Reads B prompts of P places: embeddings [B, P, width] at positions int64 [axes, B, P], and what
the family gives the text stack beside them, to final hidden states [B, P, width] and what the
layers keep."""


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


class RowCache:
    """Static room for sequences that decode together, a row each, which others take once it ends.

    Rows need be neither of one length nor of one age. What a step looks at are the first `rows`
    rows and the first `seen` places, a multiple of `block` that holds the furthest place of any
    row. Of row r, whose prompt was padded on the right to its bucket P_r:

        0 to begun − 1            its prompt
        begun to P_r − 1          padding: masked, and finite
        P_r to place − 1          its answer, a new place each step
        place to seen − 1         nothing yet: zeros or an earlier row, masked, and finite
        seen to cleared − 1       the same
        cleared to capacity − 1   what the memory held, which nobody looks at

    What is masked must be finite, since 0 · inf is nan. A row whose sequence is complete goes on
    writing at its place until another takes it: nobody reads that.
    """

    lengths: Tensor | None = None

    def __init__(
        self,
        rows: int,
        places: int,
        block: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        keys_by_width: bool = False,
        writes_columns: bool = False,
    ) -> None:
        """Room for so many rows of so many places; it grows when more is asked for.

        With `keys_by_width` the places of a number of a key lie side by side, as the product that
        scores them reads them fastest. With `writes_columns` rows that are all at one place are
        written by one copy; that asks for the places in each step, so it cannot be recorded.
        """
        self._block = block
        self._keys_by_width = keys_by_width
        self._writes_columns = writes_columns
        self.capacity = (rows, places)
        self._layers: list[Kept] = []
        self._mask = torch.full((rows, places), -torch.inf, dtype=dtype, device=device)
        self._place = torch.zeros(rows, dtype=torch.long, device=device)
        self._begun = torch.zeros_like(self._place)
        self._order = torch.arange(rows, device=device)
        self._cleared = (0, 0)
        self.rows = self.seen = 0
        self.mask = self._mask[:0, None, None]
        """[rows, 1, 1, seen], 0 where a place is seen, else −inf."""
        self._seen = torch.zeros((), dtype=dtype, device=device)
        self._column: int | None = None
        """The place that all rows write in this step, if it is one and is asked for."""
        self.generation = 0
        """Changes with the shape or the memory of what a step looks at."""

    # -- rows that join, move and end -------------------------------------------------------------

    def join(
        self, rows: Sequence[int], prompts: PromptCache, source: Sequence[int], lengths: Tensor
    ) -> int:
        """Row rows[i] continues prompt source[i]; returns the place at which the rows go on.

        `lengths` int64 [B] are those of all prompts, without the padding behind them.
        """
        places = prompts.places
        self._make_layers(prompts)
        self._require(max(rows) + 1, places)
        into, of = self._index(rows), self._index(source)
        for kept, room in zip(prompts.layers, self._layers, strict=True):
            for tensor, pool in zip(kept.tensors, room.tensors, strict=True):
                if kept.grows:
                    pool[into, :, :places] = tensor[of]
                else:
                    pool[into] = tensor[of]
        order = torch.arange(self.capacity[1], device=lengths.device)
        seen = torch.zeros(len(rows), self.capacity[1]).to(self._mask)
        self._mask[into] = seen.masked_fill_(order >= lengths[of, None], -torch.inf)
        self._place[into] = places
        self._begun[into] = lengths[of]
        return places

    def begin(self, rows: Sequence[int], prompts: PromptCache) -> None:
        """These rows hold nothing yet; their layers are as those of the prompts."""
        self._make_layers(prompts)
        self._require(round_up(max(rows) + 1, ROWS), 0)
        into = self._index(rows)
        self._mask[into] = -torch.inf
        self._place[into] = 0

    def leave(self, row: int) -> None:
        """A row's sequence is complete: another may join in its place."""

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Rows `target` become what rows `source` are."""
        of, into = self._index(source), self._index(target)
        places = self._cleared[1]
        for layer in self._layers:
            for pool in layer.tensors:
                used = pool[:, :, :places] if layer.grows else pool
                used[into] = used[of]
        self._mask[into] = self._mask[of]
        self._place[into] = self._place[of]
        self._begun[into] = self._begun[of]

    def show(self, rows: int, places: int, most: int = 0) -> None:
        """From now on look at so many rows, and at `places` places at least.

        No row will come to more than `most` places: there is no need for room beyond them.
        """
        seen = round_up(places, self._block)
        self._require(rows, seen, round_up(most, self._block))
        if (rows, seen) != (self.rows, self.seen):
            self.rows, self.seen = rows, seen
            self.generation += 1
        self.mask = self._mask[:rows, None, None, :seen]

    # -- a step -----------------------------------------------------------------------------------

    def open_next(self) -> None:
        """Make each row's next place visible; the step that follows writes it."""
        # A row past its end goes on at the last place there is: nobody reads what it writes.
        places = self._place[: self.rows].clamp_(max=self.capacity[1] - 1)
        if self._writes_columns:
            low, high = (int(side) for side in places.aminmax())
            self._column = low if low == high else None
        if self._column is None:
            self._mask.index_put_(self.here, self._seen)
        else:
            self._mask[: self.rows, self._column] = 0.0

    def close(self) -> None:
        """The step has written each row's place: the next one is behind it."""
        self._place[: self.rows].add_(1)

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values [rows, heads, 1, width]."""
        self.write(self.places(layer), keys[:, :, 0], values[:, :, 0])
        return self.views(layer)

    def write(self, places: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> None:
        """Put keys and values [rows, heads, width] into a layer's `places`, each row's at its."""
        for new, pool in zip((keys, values), places, strict=True):
            if self._column is None:
                pool.index_put_(self.here, new)
            else:
                pool.select(1, self._column).copy_(new)

    @property
    def here(self) -> tuple[Tensor, Tensor]:
        """int64 [rows] both: each row, and the place that it writes in this step."""
        return self._order[: self.rows], self._place[: self.rows]

    @property
    def begun(self) -> Tensor:
        """int64 [rows]: how long the prompt is that each row began with."""
        return self._begun[: self.rows]

    def places(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values to write at `here`: [rows, capacity of places, heads, width] each."""
        keys, values = self._layers[layer].tensors
        return keys[: self.rows].transpose(1, 2), values[: self.rows].transpose(1, 2)

    def views(self, layer: int) -> tuple[Tensor, Tensor]:
        """The keys and values that a step looks at, [rows, heads, seen, width] each."""
        keys, values = self._layers[layer].tensors
        return keys[: self.rows, :, : self.seen], values[: self.rows, :, : self.seen]

    def state(self, layer: int) -> State:
        """As the step before left it."""
        return tuple(pool[: self.rows] for pool in self._layers[layer].tensors)

    def keep_state(self, layer: int, state: State) -> None:
        """With the new token read."""
        for new, pool in zip(state, self._layers[layer].tensors, strict=True):
            pool[: self.rows].copy_(new)

    # -- room -------------------------------------------------------------------------------------

    def _index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self._mask.device)

    def _make_layers(self, prompts: PromptCache) -> None:
        """The layers' room, made when the first prompts show what each layer keeps."""
        if self._layers:
            return
        rows, places = self.capacity

        def room(kept: Kept) -> Kept:
            if kept.grows:
                return self._room(kept, rows, places)
            return kept.map(lambda tensor: tensor.new_zeros(rows, *tensor.shape[1:]))

        self._layers = [room(kept) for kept in prompts.layers]

    def _room(self, like: Kept, rows: int, places: int) -> Kept:
        """For keys and values; left as it is until a step looks at it: what is never used takes no
        memory of a CPU's."""
        keys, values = like.tensors
        heads, width = keys.shape[1], keys.shape[3]
        if self._keys_by_width:
            room = keys.new_empty(rows, heads, width, places).transpose(2, 3)
        else:
            room = keys.new_empty(rows, heads, places, width)
        return Kept((room, values.new_empty(rows, heads, places, values.shape[3])), grows=True)

    @property
    def held_places(self) -> int:
        """Places of all rows that it takes memory for; of a CPU's only what a step has seen."""
        rows, places = self._cleared if self._mask.device.type == "cpu" else self.capacity
        return rows * places

    def fits(self, rows: int, places: int) -> bool:
        """Whether there is room for so many without new memory."""
        return rows <= self.capacity[0] and round_up(places, self._block) <= self.capacity[1]

    def _require(self, rows: int, places: int, most: int = 0) -> None:
        """Have so many rows of so many places, and finite numbers in them; see `show`."""
        held_rows, held = self.capacity
        if rows > held_rows or places > held:
            # Growing copies all there is: there is a little more room than is asked for.
            spare_rows, spare = held_rows + held_rows // 8, min(2 * held, most)
            self._widen(
                max(rows, spare_rows) if rows > held_rows else held_rows,
                max(places, spare) if places > held else held,
            )
        held_rows, held = self._cleared
        if rows <= held_rows and places <= held:
            return
        rows, places = max(rows, held_rows), max(places, held)
        for layer in self._layers:
            if layer.grows:
                for pool in layer.tensors:
                    pool[:held_rows, :, held:places] = 0.0
                    pool[held_rows:rows, :, :places] = 0.0
        if self._layers:
            self._cleared = (rows, places)

    def _widen(self, rows: int, places: int) -> None:
        held_rows, held = self.capacity
        used_rows, used = self._cleared
        self.capacity = (rows, places)

        def wider(layer: Kept) -> Kept:
            if not layer.grows:
                more = rows - held_rows
                return layer.map(
                    lambda pool: torch.cat([pool, pool.new_zeros(more, *pool.shape[1:])])
                )
            room = self._room(layer, rows, places)
            for pool, wide in zip(layer.tensors, room.tensors, strict=True):
                wide[:used_rows, :, :used] = pool[:used_rows, :, :used]
            return room

        # One by one: a layer's old memory is free before the next one takes its new.
        for number in range(len(self._layers)):
            self._layers[number] = wider(self._layers[number])
        mask = torch.full((rows, places), -torch.inf).to(self._mask)
        mask[:held_rows, :held] = self._mask
        place, begun = self._place.new_zeros(2, rows)
        place[:held_rows], begun[:held_rows] = self._place, self._begun
        self._mask, self._place, self._begun = mask, place, begun
        self._order = torch.arange(rows, device=place.device)
        self.generation += 1
