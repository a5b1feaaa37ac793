"""Training data that begin alike: the prompt of a group is computed once, not once an answer.

A datum is cut where its loss begins: the places before it that bear on no loss are its prompt, cut
to a multiple of 16. Where the cut lies depends on the datum alone, and it is cut whether others
share its prompt or not, so company changes no result. The prompt's keys and values are computed
once, every answer attends to them, and what the answers' gradients add up to goes back through the
prompt once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from visual_r1.engine.base_model import BaseModel
from visual_r1.engine.batching import ROWS
from visual_r1.engine.examples import Example
from visual_r1.engine.hidden import hidden_states
from visual_r1.engine.layout import Layout
from visual_r1.engine.vision import Features


def prompt_places(base: BaseModel, example: Example) -> int:
    """How many places of the datum are computed as its prompt; 0 leaves it whole.

    Only on the CPU: on CUDA activations are computed again in the backward pass, which keys and
    values that are kept do not go along with.
    """
    if base.device.type != "cpu":
        return 0
    places = min(example.silent, example.layout.length - 1) // ROWS * ROWS
    return 0 if example.layout.is_image[places:].any() else places


def same_prompts(
    examples: Sequence[Example], indices: Sequence[int], places: int
) -> list[list[int]]:
    """The indices by equal prompt of so many places, in the order of first appearance."""
    groups: dict[tuple[bytes, bytes, tuple[bytes, ...]], list[int]] = {}
    for index in indices:
        layout = examples[index].layout
        images = tuple(image.digest for image in layout.images)
        key = (layout.tokens[:places].tobytes(), layout.is_image[:places].tobytes(), images)
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def behind(example: Example, places: int) -> Example:
    """What is left of a datum without its prompt, which holds all its images."""
    layout = replace(
        example.layout,
        tokens=example.layout.tokens[places:],
        positions=example.layout.positions[:, places:],
        is_image=example.layout.is_image[places:],
        images=(),
    )
    inputs = {name: values[places:] for name, values in example.inputs.items()}
    return replace(example, layout=layout, targets=example.targets[places:], inputs=inputs)


@dataclass(frozen=True)
class Prompts:
    """B computed prompts of P places."""

    hidden: Tensor
    """[B, P, width], without a graph."""
    keys: list[Tensor]
    """Per layer [B, heads, P, width]: leaves that collect the gradients of all answers."""
    values: list[Tensor]
    _computed: list[Tensor]
    """The keys and values as they were computed, with their graph."""

    @staticmethod
    def of(
        base: BaseModel, layouts: Sequence[Layout], features: Features, places: int
    ) -> "Prompts":
        """Run the first `places` places of the layouts."""
        firsts = [
            replace(
                layout,
                tokens=layout.tokens[:places],
                positions=layout.positions[:, :places],
                is_image=layout.is_image[:places],
            )
            for layout in layouts
        ]
        cache: Any = DynamicCache()
        hidden = hidden_states(base, firsts, features, places, cache)
        layers = cast("list[Any]", cache.layers)
        computed: list[Tensor] = [part for layer in layers for part in (layer.keys, layer.values)]
        leaves = [part.detach().requires_grad_(part.requires_grad) for part in computed]
        return Prompts(hidden.detach(), leaves[::2], leaves[1::2], computed)

    def continued(
        self, base: BaseModel, examples: Sequence[Example], rows: Sequence[int], length: int
    ) -> Tensor:
        """Hidden states [R, length, width] of what follows: example r continues prompt rows[r]."""
        index = torch.tensor(rows, device=base.device)
        places = self.hidden.shape[1]
        cache = _Continuation([k[index] for k in self.keys], [v[index] for v in self.values])
        unseen = torch.full((length, places + length), -torch.inf, device=base.device)
        mask = torch.triu(unseen, diagonal=places + 1).to(base.dtype)
        layouts = [example.layout for example in examples]
        return hidden_states(base, layouts, {}, length, cache, mask.expand(len(rows), 1, -1, -1))

    def backward(self) -> None:
        """Send what the answers' gradients add up to back through the prompts."""
        leaves = [leaf for pair in zip(self.keys, self.values, strict=True) for leaf in pair]
        reached = [
            (part, leaf.grad)
            for part, leaf in zip(self._computed, leaves, strict=True)
            if leaf.grad is not None
        ]
        if reached:
            parts, gradients = zip(*reached, strict=True)
            torch.autograd.backward(parts, gradients)  # pyright: ignore[reportUnknownMemberType]


class _Continuation:
    """Takes the place of a transformers cache: each layer sees the prompt's keys before its own."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self._keys = keys
        self._values = values

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values [R, heads, L, width]."""
        return (
            torch.cat([self._keys[layer], keys], dim=2),
            torch.cat([self._values[layer], values], dim=2),
        )
