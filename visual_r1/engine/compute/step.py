"""One decode step: a token a row in, the logits of the next out. Lean where the family can."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.cache import PromptCache, PromptReader, RowCache


class Cache(Protocol):
    """What a step keeps of its rows, as those see it that fill them (`cache.RowCache`)."""

    @property
    def held_places(self) -> int:
        """Places of all rows together that it takes memory for."""
        ...

    def join(
        self, rows: Sequence[int], prompts: PromptCache, source: Sequence[int], lengths: Tensor
    ) -> int:
        """Rows continue prompts; returns the place at which they go on."""
        ...

    def leave(self, row: int) -> None:
        """A row is free."""
        ...

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Rows `target` become what rows `source` are."""
        ...

    def show(self, rows: int, places: int, most: int = 0) -> None:
        """Look at the first so many rows and places; they will come to `most` places at most."""
        ...


class Step(Protocol):
    """What computes a step with the weights that are bound."""

    def cache(self, rows: int, places: int, block: int) -> Cache:
        """One of its own kind with room for so many at first, see `DeviceRules.cache_block`."""
        ...

    @property
    def read_prompts(self) -> PromptReader | None:
        """What reads prompts with the weights that are bound; None leaves it to the modules."""
        ...

    def reach(self, positions: int) -> None:
        """Be ready for so many positions."""
        ...

    def __call__(self, tokens: Tensor, positions: Tensor, cache: Any, logits: Tensor) -> None:
        """Tokens int64 [R] at positions int64 [R] enter a cache that it made; the logits of the
        next ones go to `logits`, float32 [R, V]."""
        ...


class ModuleStep:
    """By the modules of the network: of any family."""

    def __init__(self, base: BaseModel) -> None:
        """The weights are those that are bound to the network."""
        self._base = base
        self._axes = len(base.family.text_positions(0, 1))

    def cache(self, rows: int, places: int, block: int) -> RowCache:
        """Each row has the whole of its prompt."""
        return RowCache(rows, places, block, self._base.device, self._base.dtype)

    @property
    def read_prompts(self) -> None:
        """Prompts go through the modules too."""

    def reach(self, positions: int) -> None:
        """Modules compute what they need."""

    def __call__(self, tokens: Tensor, positions: Tensor, cache: RowCache, logits: Tensor) -> None:
        """See `Step`."""
        cache.open_next()
        hidden = self._base.text_stack(
            inputs_embeds=self._base.embed(tokens[:, None]),
            position_ids=positions.expand(self._axes, -1)[..., None],
            attention_mask=cache.mask,
            cache=cache,
            use_cache=True,
        ).last_hidden_state
        cache.close()
        logits.copy_(self._base.unembed(hidden[:, 0]))
