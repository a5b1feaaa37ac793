"""Decode steps as CUDA graphs: hundreds of kernels are launched as one.

A graph repeats what was recorded, over the memory that it was recorded with. A lean step keeps all
of its results in place, so it is recorded once for each shape of what the cache shows, and as often
as rows join or a block of places is opened; adapters are copied to where the last one was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from visual_r1.engine.compute.cache import PromptReader
from visual_r1.engine.compute.families.lean import LeanQwen3
from visual_r1.engine.compute.families.products import Bound, LowRank
from visual_r1.engine.compute.shared_prefix import SharedCache

Recorder: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function does and gives back what does it again. Nothing has been done by then."""


@dataclass
class _Recorded:
    """A step of one cache, and the shape that it has."""

    shape: object
    repeat: Callable[[], None] | None = None


class GraphedStep:
    """A lean step that is recorded and repeated."""

    def __init__(self, step: LeanQwen3, record: Recorder | None = None) -> None:
        """`record` is CUDA's own by default."""
        self._step = step
        self._record = record or _record

    def prepared(self, adapter: LowRank) -> tuple[Bound, ...]:
        """See `LeanQwen3.prepared`."""
        return self._step.prepared(adapter)

    def use(self, prepared: tuple[Bound, ...]) -> None:
        """See `LeanQwen3.use`."""
        self._step.use(prepared, in_place=True)

    def cache(self, rows: int, places: int, block: int) -> SharedCache:
        """See `LeanQwen3.cache`."""
        return self._step.cache(rows, places, block, recorded=True)

    @property
    def read_prompts(self) -> PromptReader | None:
        """See `LeanQwen3.read_prompts`."""
        return self._step.read_prompts

    def reach(self, positions: int) -> None:
        """See `LeanQwen3.reach`."""
        self._step.reach(positions)

    def __call__(
        self, tokens: Tensor, positions: Tensor, cache: SharedCache, logits: Tensor
    ) -> None:
        """See `LeanQwen3`. The first step of a shape is not recorded: it warms the kernels up."""
        places = [one.data_ptr() for one in (tokens, positions, logits)]
        shape = (*places, self._step.settle(cache))
        recorded: _Recorded | None = cache.recorded
        if recorded is None or recorded.shape != shape:
            cache.recorded = _Recorded(shape)
            self._step(tokens, positions, cache, logits)
            return
        if recorded.repeat is None:
            # What is recorded is the stream of the thread's current device.
            with torch.cuda.device_of(tokens):
                recorded.repeat = self._record(lambda: self._step(tokens, positions, cache, logits))
        recorded.repeat()


def _record(work: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
