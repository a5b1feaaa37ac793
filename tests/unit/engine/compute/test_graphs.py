"""A recorded step against a computed one: a tape stands where CUDA's graph would.

The tape repeats the operators that a step called, over the tensors that it called them with, as a
CUDA graph does: whatever is not in its place by then shows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from engine_material import picture_prompt, request, words
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.compute.graphs import GraphedStep
from visual_r1.engine.types import LoraSpec


class Tape(TorchDispatchMode):
    """The operators called while it is on, and what they gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Sequence[Any], Mapping[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, given))
        return given

    def repeat(self) -> None:
        for func, args, kwargs, before in self.calls:
            given = func(*args, **kwargs)
            for new, old in zip(tree_leaves(given), tree_leaves(before), strict=True):
                if isinstance(old, Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


def recorder(repeats: list[int]) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def record(work: Callable[[], None]) -> Callable[[], None]:
        tape = Tape()
        with tape:
            work()
        done = [True]  # unlike a graph, a tape works while it records

        def again() -> None:
            repeats.append(1)
            if not done:
                tape.repeat()
            done.clear()

        return again

    return record


def test_a_recorded_step_gives_the_same(
    compute: Compute,
    trained: Callable[[LoraSpec], Adapter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through rows that join, adapters that take turns, and blocks of places that are opened."""
    adapters = [compute.freeze(trained(LoraSpec(rank=8, seed=seed))) for seed in (1, 2)]
    early = [request(picture_prompt(n), samples=3, seed=n, max_tokens=30) for n in range(2)]
    late = [request((words(n, 30 + n),), samples=9, seed=n, max_tokens=40) for n in range(2)]
    expected = [compute.sample(one, early + late) for one in adapters]
    repeats: list[int] = []
    monkeypatch.setattr(compute, "_lean", GraphedStep(compute._lean, recorder(repeats)))  # type: ignore[arg-type]
    batches = [compute.open_batch(one, check_every=16) for one in adapters]
    answers: list[dict[int, Any]] = [{}, {}]
    for wanted in (early, late):
        for batch in batches:
            for one in wanted:
                batch.admit(one)
        for _ in range(2):
            for batch, given in zip(batches, answers, strict=True):
                given |= {one.ticket: one.output for one in batch.advance(steps=16).answered}
    for batch, given in zip(batches, answers, strict=True):
        while not batch.idle:
            given |= {one.ticket: one.output for one in batch.advance().answered}
    assert [[given[ticket] for ticket in sorted(given)] for given in answers] == expected
    assert len(repeats) > 30
