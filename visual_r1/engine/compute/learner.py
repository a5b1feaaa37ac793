"""forward and forward_backward: log-probabilities, losses and gradients of training data.

Training data that begin alike: the prompt of a group is computed once, not once an answer.

A datum is cut where its loss begins: the places before it that bear on no loss are its prompt, cut
to a multiple of 16. Where the cut lies depends on the datum alone, and it is cut whether others
share its prompt or not, so company changes no result. The prompt's keys and values are computed
once, every answer attends to them, and what the answers' gradients add up to goes back through the
prompt once.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import ROWS, by_bucket, chunks, split, training_bucket
from visual_r1.engine.compute.examples import Batch, Example, pad
from visual_r1.engine.compute.forward import (
    Features,
    backward_through_tower,
    distinct,
    hidden_states,
    image_features,
    target_logprobs,
)
from visual_r1.engine.compute.lora import Adapter, Slot
from visual_r1.engine.compute.losses import Loss, ratio
from visual_r1.engine.compute.prompts import Layout
from visual_r1.engine.types import ForwardOutput


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


TOKENS_AT_ONCE = {"cpu": 1536, "cuda": 16384}
"""Padded tokens in a microbatch. On the CPU small ones are the faster: they stay in the cache."""


class Learner:
    """One pass over training data with one adapter bound to the network."""

    def __init__(
        self, base: BaseModel, slot: Slot, loss: Loss, config: Mapping[str, float]
    ) -> None:
        """The slot is active, and its parameters are bound by `run`."""
        self._base = base
        self._slot = slot
        self._loss = loss
        self._config = config
        self._metrics: dict[str, float] = {"loss:sum": 0.0, "tokens:sum": 0.0}

    def run(
        self, adapter: Adapter, examples: Sequence[Example], *, backward: bool
    ) -> ForwardOutput:
        """Compute all examples; gradients are added to the adapter's only when all went well."""
        gradients = torch.zeros_like(adapter.weights) if backward else None
        self._slot.bind(adapter.weights, gradients)
        # Training mode changes one thing, activation checkpointing, which is for large models.
        self._base.network.train(backward and self._base.device.type == "cuda")
        try:
            with torch.set_grad_enabled(backward):
                logprobs = self._compute(examples, backward)
        finally:
            self._base.network.eval()
            self._slot.bind(adapter.weights)
        if gradients is not None:
            adapter.gradients.add_(gradients)
            adapter.pending += 1
        return ForwardOutput(logprobs=tuple(logprobs), metrics=self._metrics)

    def _compute(self, examples: Sequence[Example], backward: bool) -> list[np.ndarray]:
        images = distinct(image for example in examples for image in example.layout.images)
        features = image_features(self._base, images)
        work = _Pass(examples, features, backward, backward and self._slot.trains_vision)
        cuts = [prompt_places(self._base, example) for example in examples]
        for places, indices in by_bucket(cuts).items():
            if places:
                self._with_shared_prompts(work, indices, places)
            else:
                self._whole(work, indices)
        if work.feature_gradients:
            backward_through_tower(self._base, images, work.feature_gradients)
        return [
            work.logprobs[index].reshape(example.shape).numpy()  # pyright: ignore[reportUnknownMemberType]
            for index, example in enumerate(examples)
        ]

    def _whole(self, work: "_Pass", indices: Sequence[int]) -> None:
        """Examples that are computed from their first place to their last."""
        buckets = [training_bucket(work.examples[index].layout.length) for index in indices]
        for length, places in by_bucket(buckets).items():
            for chosen in chunks([indices[place] for place in places], self._at_once(length)):
                batch = [work.examples[index] for index in chosen]
                layouts = [example.layout for example in batch]
                with work.shown(layouts) as features:
                    hidden = hidden_states(self._base, layouts, features, length)
                    work.put(chosen, self._loss_of(batch, hidden, length, work.backward))

    def _with_shared_prompts(self, work: "_Pass", indices: Sequence[int], places: int) -> None:
        """Examples whose first `places` places are a prompt, computed once for who shares it."""
        groups = same_prompts(work.examples, indices, places)
        for some in chunks(groups, self._at_once(places)):
            layouts = [work.examples[group[0]].layout for group in some]
            with work.shown(layouts) as features:
                prompts = Prompts.of(self._base, layouts, features, places)
                for prompt, group in enumerate(some):
                    self._score_prompt(work, group, prompts.hidden[prompt])
                self._continue(work, prompts, some, places)
                if work.backward:
                    prompts.backward()

    def _score_prompt(self, work: "_Pass", group: Sequence[int], hidden: Tensor) -> None:
        """Log-probabilities of the prompt's places; they bear on no loss."""
        targets = [work.examples[index].targets[: len(hidden)] for index in group]
        with torch.no_grad():
            together = torch.cat(targets, dim=1).to(self._base.device)
            logp = target_logprobs(self._base, hidden, together).to("cpu", torch.float32)
        work.put(group, split(logp, [target.shape[1] for target in targets], dim=1))
        if "advantages" in work.examples[group[0]].inputs:
            # Where the advantage is 0 the ratio counts as 1.
            self._metrics["ratio:max"] = max(self._metrics.get("ratio:max", 0.0), 1.0)

    def _continue(
        self, work: "_Pass", prompts: Prompts, groups: Sequence[Sequence[int]], places: int
    ) -> None:
        """What follows the prompts, by length."""
        rows = [(prompt, index) for prompt, group in enumerate(groups) for index in group]
        rest = {index: behind(work.examples[index], places) for _, index in rows}
        buckets = [training_bucket(rest[index].layout.length) for _, index in rows]
        for length, members in by_bucket(buckets).items():
            for chosen in chunks([rows[member] for member in members], self._at_once(length)):
                batch = [rest[index] for _, index in chosen]
                of = [prompt for prompt, _ in chosen]
                hidden = prompts.continued(self._base, batch, of, length)
                scored = self._loss_of(batch, hidden, length, work.backward)
                work.put([index for _, index in chosen], scored)

    def _at_once(self, length: int) -> int:
        return TOKENS_AT_ONCE[self._base.device.type] // length

    def _loss_of(
        self, examples: Sequence[Example], hidden: Tensor, length: int, backward: bool
    ) -> list[Tensor]:
        """The loss of a microbatch, and its gradients; returns log-probabilities [T, K] each."""
        batch = pad(examples, length, self._base.device)
        logp = target_logprobs(self._base, hidden.flatten(0, 1), batch.targets.flatten(0, 1))
        logp = logp.view(batch.targets.shape)
        loss = self._loss.formula(logp, batch.inputs, self._config)
        total = torch.where(batch.valid, loss, 0.0).sum(dtype=torch.float64)
        if backward:
            total.backward()  # pyright: ignore[reportUnknownMemberType]
        self._measure(total, logp.detach(), batch)
        host = logp.detach().to("cpu", torch.float32)
        return [
            host[row, : len(example.targets), : example.targets.shape[1]]
            for row, example in enumerate(examples)
        ]

    def _measure(self, total: Tensor, logp: Tensor, batch: Batch) -> None:
        """Sum the loss, count the tokens that bear on it, and watch the ratios of policy losses."""
        metrics = self._metrics
        metrics["loss:sum"] += float(total.detach())
        bearing = batch.inputs.get("advantages", batch.inputs.get("weights"))
        assert bearing is not None
        metrics["tokens:sum"] += float((bearing != 0).sum())
        if "advantages" in batch.inputs:
            r = ratio(logp, batch.inputs)
            metrics["ratio:max"] = max(metrics.get("ratio:max", 0.0), float(r.max()))
            if "clip_low_threshold" in self._config:
                low, high = (self._config[f"clip_{side}_threshold"] for side in ("low", "high"))
                outside = ((r < low) | (r > high)) & (bearing != 0)
                clipped = metrics.get("clipped_tokens:sum", 0.0)
                metrics["clipped_tokens:sum"] = clipped + float(outside.sum())


class _Pass:
    """What one pass over the data is given, and what comes of it."""

    def __init__(
        self, examples: Sequence[Example], features: Features, backward: bool, through_vision: bool
    ) -> None:
        self.examples = examples
        self.backward = backward
        self.logprobs: dict[int, Tensor] = {}
        """Of each example [T, K], as far as it has been computed."""
        self.feature_gradients: dict[bytes, Tensor] = {}
        self._features = features
        self._through_vision = through_vision

    def put(self, indices: Sequence[int], logprobs: Sequence[Tensor]) -> None:
        """Take in the log-probabilities of the examples' next places."""
        for index, values in zip(indices, logprobs, strict=True):
            held = self.logprobs.get(index)
            self.logprobs[index] = values if held is None else torch.cat([held, values])

    @contextmanager
    def shown(self, layouts: Sequence[Layout]) -> Generator[Features]:
        """The features of the layouts' images; gradients that reach them are collected."""
        leaves = {
            image.digest: self._features[image.digest].detach().requires_grad_(self._through_vision)
            for image in distinct(image for layout in layouts for image in layout.images)
        }
        yield leaves
        for digest, leaf in leaves.items():
            if leaf.grad is not None:
                held = self.feature_gradients.get(digest)
                self.feature_gradients[digest] = leaf.grad if held is None else held.add_(leaf.grad)
