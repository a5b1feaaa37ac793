"""forward and forward_backward: log-probabilities, losses and gradients of training data."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.adapters import Adapter, Slot
from visual_r1.engine.base_model import BaseModel
from visual_r1.engine.batching import by_bucket, chunks, training_bucket
from visual_r1.engine.examples import Batch, Example, pad
from visual_r1.engine.hidden import hidden_states, target_logprobs
from visual_r1.engine.losses import Loss, ratio
from visual_r1.engine.requests import ForwardOutput
from visual_r1.engine.vision import backward_through_tower, distinct, image_features

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
        through_vision = backward and self._slot.trains_vision
        feature_gradients: dict[bytes, Tensor] = {}
        logprobs: list[np.ndarray | None] = [None] * len(examples)
        buckets = [training_bucket(example.layout.length) for example in examples]
        for length, indices in by_bucket(buckets).items():
            at_once = TOKENS_AT_ONCE[self._base.device.type] // length
            for chosen in chunks(indices, at_once):
                batch = [examples[index] for index in chosen]
                shown = {
                    image.digest: features[image.digest].detach().requires_grad_(through_vision)
                    for image in distinct(i for example in batch for i in example.layout.images)
                }
                for index, values in zip(
                    chosen, self._microbatch(batch, shown, length, backward), strict=True
                ):
                    logprobs[index] = values
                if through_vision:
                    _accumulate(feature_gradients, shown)
        if feature_gradients:
            backward_through_tower(self._base, images, feature_gradients)
        return [values for values in logprobs if values is not None]

    def _microbatch(
        self,
        examples: Sequence[Example],
        features: dict[bytes, Tensor],
        length: int,
        backward: bool,
    ) -> list[np.ndarray]:
        batch = pad(examples, length, self._base.device)
        layouts = [example.layout for example in examples]
        hidden = hidden_states(self._base, layouts, features, length)
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
            .reshape(example.shape)
            .numpy()  # pyright: ignore[reportUnknownMemberType]
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


def _accumulate(total: dict[bytes, Tensor], leaves: Mapping[bytes, Tensor]) -> None:
    for digest, leaf in leaves.items():
        if leaf.grad is not None:
            held = total.get(digest)
            total[digest] = leaf.grad if held is None else held.add_(leaf.grad)
