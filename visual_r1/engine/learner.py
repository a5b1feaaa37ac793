"""forward and forward_backward: log-probabilities, losses and gradients of training data."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.adapters import Adapter, Slot
from visual_r1.engine.base_model import BaseModel
from visual_r1.engine.batching import by_bucket, chunks, training_bucket
from visual_r1.engine.examples import Batch, Example, pad
from visual_r1.engine.hidden import hidden_states, target_logprobs
from visual_r1.engine.layout import Layout
from visual_r1.engine.losses import Loss, ratio
from visual_r1.engine.requests import ForwardOutput
from visual_r1.engine.shared_prompts import Prompts, behind, prompt_places, same_prompts
from visual_r1.engine.tensors import split
from visual_r1.engine.vision import Features, backward_through_tower, distinct, image_features

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
