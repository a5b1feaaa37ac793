"""forward and forward_backward: log-probabilities, losses and gradients of training data.

The answers of a group begin with the same prompt, which is computed once and not once an answer. A
datum is cut where its loss begins: the places before it that add nothing to the loss are its
prompt, down to a multiple of 16. What the layers keep of it is computed once, every answer goes on
from there, and what the answers' gradients add up to goes back through the prompt once. Where
the cut lies depends on the datum alone, and it is cut whether others share its prompt or not, so
what else is computed changes no result.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import ROWS, by_bucket, chunks, split, training_bucket
from visual_r1.engine.compute.cache import PromptCache
from visual_r1.engine.compute.datums import CheckedDatum, PaddedTargets, pad
from visual_r1.engine.compute.forward import (
    Features,
    backward_through_tower,
    continued_states,
    distinct,
    hidden_states,
    image_features,
    prompt_states,
    target_logprobs,
)
from visual_r1.engine.compute.lora import Adapter, Slot
from visual_r1.engine.compute.losses import LossFunction
from visual_r1.engine.compute.prompts import Layout
from visual_r1.engine.types import ForwardOutput

TOKENS_AT_ONCE = {"cpu": 1536, "cuda": 16384}
"""Padded tokens in a minibatch. On the CPU small ones are the faster: they stay in its cache."""


class Learner:
    """Computes training data with one loss, and one adapter's modules active in the network."""

    def __init__(
        self, base: BaseModel, slot: Slot, loss: LossFunction, config: Mapping[str, float]
    ) -> None:
        """The slot is active, and its parameters are bound by `run`."""
        self._base = base
        self._slot = slot
        self._loss = loss
        self._config = config

    def run(
        self, adapter: Adapter, data: Sequence[CheckedDatum], *, backward: bool
    ) -> ForwardOutput:
        """Compute all data; gradients are added to the adapter's only when all went well."""
        # Into a vector of their own: a pass that fails halfway must not leave half a gradient.
        gradients = torch.zeros_like(adapter.weights) if backward else None
        self._slot.bind(adapter.weights, gradients)
        # Training mode changes one thing, activation checkpointing, which is for large models.
        self._base.network.train(backward and self._base.device.type == "cuda")
        try:
            with torch.set_grad_enabled(backward):
                work = _Pass(self._base, self._loss, self._config, data, backward)
                output = work.run(through_vision=backward and self._slot.trains_vision)
        finally:
            self._base.network.eval()
            self._slot.bind(adapter.weights)
        if gradients is not None:
            adapter.gradients.add_(gradients)
            adapter.pending += 1
        return output


@dataclass(frozen=True)
class SharedPrompts:
    """B prompts of P places, computed and ready to be continued by answers."""

    hidden: Tensor
    """[B, P, width], without a graph."""
    cache: PromptCache
    """Leaves that collect the gradients of all answers."""
    _computed: PromptCache
    """The same with the graph by which they were computed."""

    @staticmethod
    def of(
        base: BaseModel, layouts: Sequence[Layout], features: Features, places: int
    ) -> "SharedPrompts":
        """Compute the first `places` places of the layouts."""
        prompts = [layout.up_to(places) for layout in layouts]
        hidden, computed = prompt_states(base, prompts, features, places)
        leaves = computed.map(lambda part: part.detach().requires_grad_(part.requires_grad))
        return SharedPrompts(hidden.detach(), leaves, computed)

    def backward(self) -> None:
        """Send what the answers' gradients add up to back through the prompts."""
        reached = [
            (part, leaf.grad)
            for part, leaf in zip(self._computed.tensors(), self.cache.tensors(), strict=True)
            if leaf.grad is not None
        ]
        if reached:
            parts, gradients = zip(*reached, strict=True)
            torch.autograd.backward(parts, gradients)  # pyright: ignore[reportUnknownMemberType]


class _Pass:
    """One pass over data: what it is given, and what comes of it."""

    def __init__(
        self,
        base: BaseModel,
        loss: LossFunction,
        config: Mapping[str, float],
        data: Sequence[CheckedDatum],
        backward: bool,
    ) -> None:
        self._base = base
        self._loss = loss
        self._config = config
        self._data = data
        self._backward = backward
        self._metrics: dict[str, float] = {"loss:sum": 0.0, "tokens:sum": 0.0}
        self._logprobs: dict[int, Tensor] = {}
        """Of each datum [T, K], as far as it has been computed."""
        self._feature_gradients: dict[bytes, Tensor] = {}

    def run(self, *, through_vision: bool) -> ForwardOutput:
        """Compute everything; `through_vision` sends gradients through the vision tower too."""
        images = distinct(image for datum in self._data for image in datum.layout.images)
        features = image_features(self._base, images)
        cuts = [self._prompt_places(datum) for datum in self._data]
        for places, indices in by_bucket(cuts).items():
            if places:
                self._compute_with_prompts(indices, places, features, through_vision)
            else:
                self._compute_whole(indices, features, through_vision)
        if self._feature_gradients:
            backward_through_tower(self._base, images, self._feature_gradients)
        logprobs: list[np.ndarray] = [
            self._logprobs[index].reshape(datum.shape).numpy()  # pyright: ignore[reportUnknownMemberType]
            for index, datum in enumerate(self._data)
        ]
        return ForwardOutput(logprobs=tuple(logprobs), metrics=self._metrics)

    def _prompt_places(self, datum: CheckedDatum) -> int:
        """How many places of the datum are computed as its prompt; 0 leaves it whole.

        Only on the CPU: on CUDA activations are computed again in the backward pass, which what is
        kept does not go along with.
        """
        if self._base.device.type != "cpu":
            return 0
        # At least one place is left to the answer; an image behind the cut leaves the datum whole.
        places = min(datum.masked_prefix, datum.layout.length - 1) // ROWS * ROWS
        return 0 if datum.layout.is_image[places:].any() else places

    def _compute_whole(
        self, indices: Sequence[int], features: Features, through_vision: bool
    ) -> None:
        """Data that are computed from their first place to their last."""
        buckets = [training_bucket(self._data[index].layout.length) for index in indices]
        for length, members in by_bucket(buckets).items():
            for chosen in chunks([indices[member] for member in members], self._at_once(length)):
                minibatch = [self._data[index] for index in chosen]
                layouts = [datum.layout for datum in minibatch]
                with self._collecting(layouts, features, through_vision) as leaves:
                    hidden = hidden_states(self._base, layouts, leaves, length)
                    self._learn(chosen, minibatch, hidden, length)

    def _compute_with_prompts(
        self, indices: Sequence[int], places: int, features: Features, through_vision: bool
    ) -> None:
        """Data whose first `places` places are a prompt, computed once for all that share it."""
        groups = self._same_prompts(indices, places)
        for some in chunks(groups, self._at_once(places)):
            layouts = [self._data[group[0]].layout for group in some]
            with self._collecting(layouts, features, through_vision) as leaves:
                prompts = SharedPrompts.of(self._base, layouts, leaves, places)
                for prompt, group in enumerate(some):
                    self._score_prompt(group, prompts.hidden[prompt])
                self._continue(some, prompts, places)
                if self._backward:
                    prompts.backward()

    def _same_prompts(self, indices: Sequence[int], places: int) -> list[list[int]]:
        """The indices by equal prompt of so many places, in the order of first appearance."""
        groups: dict[tuple[bytes, bytes, tuple[bytes, ...]], list[int]] = {}
        for index in indices:
            prompt = self._data[index].layout.up_to(places)
            images = tuple(image.digest for image in prompt.images)
            key = (prompt.tokens.tobytes(), prompt.is_image.tobytes(), images)
            groups.setdefault(key, []).append(index)
        return list(groups.values())

    def _score_prompt(self, group: Sequence[int], hidden: Tensor) -> None:
        """Log-probabilities of the prompt's places; they add nothing to the loss."""
        # Every member's targets as columns of one softmax over the vocabulary.
        targets = [self._data[index].targets[: len(hidden)] for index in group]
        with torch.no_grad():
            together = torch.cat(targets, dim=1).to(self._base.device)
            logp = target_logprobs(self._base, hidden, together).to("cpu", torch.float32)
        self._put(group, split(logp, [target.shape[1] for target in targets], dim=1))
        if "advantages" in self._data[group[0]].inputs:
            # Where the advantage is 0 the ratio counts as 1.
            self._metrics["ratio:max"] = max(self._metrics.get("ratio:max", 0.0), 1.0)

    def _continue(
        self, groups: Sequence[Sequence[int]], prompts: SharedPrompts, places: int
    ) -> None:
        """What follows the prompts, by length; group g continues prompt g."""
        rows = [(prompt, index) for prompt, group in enumerate(groups) for index in group]
        rest = {index: self._data[index].behind(places) for _, index in rows}
        buckets = [training_bucket(rest[index].layout.length) for _, index in rows]
        for length, members in by_bucket(buckets).items():
            for chosen in chunks([rows[member] for member in members], self._at_once(length)):
                minibatch = [rest[index] for _, index in chosen]
                of = torch.tensor([prompt for prompt, _ in chosen], device=self._base.device)
                layouts = [datum.layout for datum in minibatch]
                hidden = continued_states(self._base, layouts, prompts.cache.rows(of), length)
                self._learn([index for _, index in chosen], minibatch, hidden, length)

    def _at_once(self, length: int) -> int:
        return TOKENS_AT_ONCE[self._base.device.type] // length

    def _learn(
        self,
        indices: Sequence[int],
        minibatch: Sequence[CheckedDatum],
        hidden: Tensor,
        length: int,
    ) -> None:
        """Log-probabilities and loss of a minibatch, and its gradients."""
        batch = pad(minibatch, length, self._base.device)
        logp = target_logprobs(self._base, hidden.flatten(0, 1), batch.targets.flatten(0, 1))
        logp = logp.view(batch.targets.shape)
        loss = self._loss.formula(logp, batch.inputs, self._config)
        # Padding is masked here: its inputs are 0, but dro counts places of every input.
        # In float64, so that a long sum loses nothing.
        total = torch.where(batch.valid, loss, 0.0).sum(dtype=torch.float64)
        if self._backward:
            total.backward()  # pyright: ignore[reportUnknownMemberType]
        self._measure(float(total.detach()), logp.detach(), batch)
        host = logp.detach().to("cpu", torch.float32)
        logprobs = [
            host[row, : len(datum.targets), : datum.targets.shape[1]]
            for row, datum in enumerate(minibatch)
        ]
        self._put(indices, logprobs)

    def _measure(self, total: float, logp: Tensor, batch: PaddedTargets) -> None:
        """Sum the loss, count the tokens that add to it, and watch the ratios of policy losses."""
        metrics = self._metrics
        metrics["loss:sum"] += total
        weight = batch.inputs.get("advantages", batch.inputs.get("weights"))
        assert weight is not None
        metrics["tokens:sum"] += float((weight != 0).sum())
        if self._loss.ratio is not None:
            r = torch.where(weight != 0, self._loss.ratio(logp, batch.inputs), 1.0)
            metrics["ratio:max"] = max(metrics.get("ratio:max", 0.0), float(r.max()))
            if "clip_low_threshold" in self._config:
                low, high = (self._config[f"clip_{side}_threshold"] for side in ("low", "high"))
                outside = ((r < low) | (r > high)) & (weight != 0)
                clipped = metrics.get("clipped_tokens:sum", 0.0)
                metrics["clipped_tokens:sum"] = clipped + float(outside.sum())

    def _put(self, indices: Sequence[int], logprobs: Sequence[Tensor]) -> None:
        """Take in the log-probabilities of the data's next places."""
        for index, values in zip(indices, logprobs, strict=True):
            held = self._logprobs.get(index)
            self._logprobs[index] = values if held is None else torch.cat([held, values])

    @contextmanager
    def _collecting(
        self, layouts: Sequence[Layout], features: Features, through_vision: bool
    ) -> Generator[Features]:
        """The features of the layouts' images; gradients that reach them are collected."""
        leaves = {
            image.digest: features[image.digest].detach().requires_grad_(through_vision)
            for image in distinct(image for layout in layouts for image in layout.images)
        }
        yield leaves
        for digest, leaf in leaves.items():
            if leaf.grad is not None:
                held = self._feature_gradients.get(digest)
                self._feature_gradients[digest] = (
                    leaf.grad if held is None else held.add_(leaf.grad)
                )
