"""forward and forward_backward: log-probabilities, losses and gradients of training data.

The answers of a group begin with the same prompt, which is computed once and not once an answer: a
datum is cut where its loss begins. What is before the cut adds nothing to the loss and is a root of
a minibatch; what is behind it is a branch of that root (see `packing`), and gradients of all
branches reach the root in the same backward pass. Where the cut lies depends on the datum alone,
and it is cut whether others share its prompt or not, so what else is computed changes no result.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad as pad_columns

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import ROWS, split
from visual_r1.engine.compute.datums import CheckedDatum, PaddedTargets, pad
from visual_r1.engine.compute.forward import (
    Features,
    TowerRuns,
    distinct,
    packed_states,
    target_logprobs,
)
from visual_r1.engine.compute.lora import Adapter, Slot
from visual_r1.engine.compute.losses import LossFunction
from visual_r1.engine.compute.memory import hand_back, is_out_of_memory
from visual_r1.engine.compute.minibatches import Unit, minibatches
from visual_r1.engine.compute.packing import Packing
from visual_r1.engine.compute.prompts import Layout
from visual_r1.engine.compute.training_memory import TrainingPlan, plan_training
from visual_r1.engine.types import ForwardOutput, InvalidRequest
from visual_r1.printing import open_logger

log = open_logger("visual_r1.engine")

LEAST_PLACES = 256
"""A pass that finds no memory for minibatches of so many places finds none at all."""


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
        """Compute all data; gradients are added to the adapter's only when all went well.

        Where the device has not the memory, minibatches become smaller and the log says so. Raises
        `InvalidRequest` where even small ones do not fit.
        """
        plan: TrainingPlan | None = None
        while True:
            try:
                if plan is None:
                    plan = self._plan(adapter, data, backward)
                return self._try(adapter, data, plan, backward)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                shortage = error
            if plan is None:
                # There was not the memory to measure what a place takes.
                plan = TrainingPlan.smallest(LEAST_PLACES)
            elif plan.places > LEAST_PLACES:
                plan = plan.smaller()
            else:
                raise InvalidRequest(
                    f"the device has not the memory for {plan.places} places of training data at a "
                    "time: train a smaller model, at a lower LoRA rank, or on a larger device."
                ) from shortage
            log.warning(
                f"a training pass found no memory left; it goes on with {plan.places} places at a "
                "time"
            )
            del shortage
            hand_back(self._base.device)

    def _plan(self, adapter: Adapter, data: Sequence[CheckedDatum], backward: bool) -> TrainingPlan:
        # What is measured is a run with the adapter in it; no gradient comes of that, and none is
        # wanted of its parameters behind it, also where memory ran out.
        self._slot.bind(adapter.weights, adapter.gradients if backward else None)
        try:
            return plan_training(self._base, data, self._slot.kept, backward=backward)
        finally:
            self._slot.bind(adapter.weights)

    def _try(
        self, adapter: Adapter, data: Sequence[CheckedDatum], plan: TrainingPlan, backward: bool
    ) -> ForwardOutput:
        # Into a vector of their own: a pass that fails halfway must not leave half a gradient.
        # Where none waits yet the adapter's own is that vector, and is cleared after a failure.
        gradients = None
        if backward:
            gradients = torch.zeros_like(adapter.weights) if adapter.pending else adapter.gradients
        self._slot.bind(adapter.weights, gradients)
        try:
            with (
                _repeatable(self._base.device),
                self._checkpointing(plan),
                torch.set_grad_enabled(backward),
            ):
                work = _Pass(self._base, self._loss, self._config, data, plan, backward)
                output = work.run(through_vision=backward and self._slot.trains_vision)
        except BaseException:
            if gradients is adapter.gradients:
                adapter.gradients.zero_()
            raise
        finally:
            self._slot.bind(adapter.weights)
        if gradients is not None:
            if adapter.pending:
                adapter.gradients.add_(gradients)
            adapter.pending += 1
        return output

    @contextmanager
    def _checkpointing(self, plan: TrainingPlan) -> Generator[None]:
        """The parts of the network in training mode, which changes one thing, that activations are
        computed again. It takes a while: each of thousands of modules is told."""
        family = self._base.family
        parts = [family.text_stack] * plan.checkpoints
        parts += [family.vision_tower] * plan.checkpoints_tower
        modules = [self._base.network.get_submodule(name) for name in parts]
        try:
            for module in modules:
                module.train()
            yield
        finally:
            for module in modules:
                module.eval()


@contextmanager
def _repeatable(device: torch.device) -> Generator[None]:
    """On a card: kernels whose sums have an order, so that the same pass gives the same bits.

    On a CPU they are chosen for good when the model is loaded.
    """
    if device.type != "cuda":
        yield
        return
    # With `warn_only` attention would warn, and sum without an order all the same.
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@dataclass(frozen=True)
class _Scored:
    """Data of a minibatch whose loss is taken, and the rows of its places among N."""

    indices: list[int]
    data: list[CheckedDatum]
    """Without what lies before their branch."""
    starts: list[int]


class _Pass:
    """One pass over data: what it is given, and what comes of it."""

    def __init__(
        self,
        base: BaseModel,
        loss: LossFunction,
        config: Mapping[str, float],
        data: Sequence[CheckedDatum],
        plan: TrainingPlan,
        backward: bool,
    ) -> None:
        self._base = base
        self._loss = loss
        self._config = config
        self._data = data
        self._plan = plan
        self._backward = backward
        self._scores_all = base.rules.scores_all or not backward
        self._metrics: dict[str, float] = {"loss:sum": 0.0, "tokens:sum": 0.0}
        self._logprobs = [torch.zeros(datum.targets.shape) for datum in data]
        self._feature_gradients: dict[bytes, Tensor] = {}

    def run(self, *, through_vision: bool) -> ForwardOutput:
        """Compute everything; `through_vision` sends gradients through the vision tower too."""
        images = distinct(image for datum in self._data for image in datum.layout.images)
        tower = TowerRuns(
            self._base, images, keeps_graphs=through_vision and self._plan.keeps_tower
        )
        for units in minibatches(self._data, self._plan):
            self._compute(units, tower.features, through_vision)
        if self._feature_gradients:
            tower.backward(self._feature_gradients)
        logprobs: list[np.ndarray] = [
            values.reshape(datum.shape).numpy()  # pyright: ignore[reportUnknownMemberType]
            for values, datum in zip(self._logprobs, self._data, strict=True)
        ]
        return ForwardOutput(logprobs=tuple(logprobs), metrics=self._metrics)

    def _compute(self, units: Sequence[Unit], features: Features, through_vision: bool) -> None:
        branches = [
            (root, datum, index)
            for root, unit in enumerate(units)
            for index, datum in unit.branches(self._data)
        ]
        layouts = [unit.root for unit in units]
        packing = Packing.of(
            [layout.length for layout in layouts],
            [(root, datum.layout.length) for root, datum, _ in branches],
            self._base.device,
            self._base.dtype,
            self._base.rules.training_block,
        )
        layouts += [datum.layout for _, datum, _ in branches]
        with self._collecting(layouts, features, through_vision) as leaves:
            hidden = packed_states(self._base, layouts, leaves, packing)
            if self._scores_all:
                self._score_prompts(units, packing, hidden.detach())
            whole = [(place, unit) for place, unit in enumerate(units) if not unit.places]
            scored = _Scored(
                [unit.members[0] for _, unit in whole] + [index for _, _, index in branches],
                [self._data[unit.members[0]] for _, unit in whole]
                + [one for _, one, _ in branches],
                [packing.starts[place] for place, _ in whole] + list(packing.starts[len(units) :]),
            )
            self._learn(scored, hidden)

    def _score_prompts(self, units: Sequence[Unit], packing: Packing, hidden: Tensor) -> None:
        """Log-probabilities of the prompts' places; they add nothing to the loss."""
        prompts = [(unit, start) for unit, start in zip(units, packing.starts, strict=False)]
        prompts = [(unit, start) for unit, start in prompts if unit.places]
        if not prompts:
            return
        rows = torch.cat([torch.arange(start, start + unit.places) for unit, start in prompts])
        # Every member's targets as columns of one softmax over the vocabulary.
        targets = [
            torch.cat([self._data[index].targets[: unit.places] for index in unit.members], dim=1)
            for unit, _ in prompts
        ]
        width = max(columns.shape[1] for columns in targets)
        wanted = torch.cat([pad_columns(one, (0, width - one.shape[1])) for one in targets])
        device = self._base.device
        with torch.no_grad():
            logp = self._scores(hidden, rows.to(device), wanted.to(device))
        by_unit = split(logp.to("cpu", torch.float32), [unit.places for unit, _ in prompts])
        for (unit, _), scores in zip(prompts, by_unit, strict=True):
            widths = [self._data[index].targets.shape[1] for index in unit.members]
            parts = split(scores[:, : sum(widths)], widths, dim=1)
            for index, part in zip(unit.members, parts, strict=True):
                self._logprobs[index][: unit.places] = part
                if "advantages" in self._data[index].inputs:
                    # Where the advantage is 0 the ratio counts as 1.
                    self._metrics["ratio:max"] = max(self._metrics.get("ratio:max", 0.0), 1.0)

    def _scores(self, hidden: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities [n, K] of targets [n, K] at n rows of hidden states [N, width]."""
        # Dummies, of which there is one at the end, up to a multiple of 16: see `batching`.
        missing = -len(rows) % ROWS
        rows = pad_columns(rows, (0, missing), value=len(hidden) - 1)
        targets = pad_columns(targets, (0, 0, 0, missing))
        found = target_logprobs(self._base, hidden[rows], targets, self._plan.logits)
        return found[: len(found) - missing]

    def _learn(self, scored: _Scored, hidden: Tensor) -> None:
        """Log-probabilities and loss of data in a minibatch, and its gradients."""
        length = max(datum.layout.length for datum in scored.data)
        batch = pad(scored.data, length, self._base.device)
        counted = batch.valid
        if not self._scores_all and self._loss.masked_by:
            bears = [batch.inputs[name] != 0 for name in self._loss.masked_by]
            counted = counted & torch.stack(bears).any(dim=0)
        counted = counted.any(dim=2)
        starts = torch.tensor(scored.starts, device=self._base.device)[:, None]
        rows = starts + torch.arange(length, device=self._base.device)
        logp = torch.zeros(batch.targets.shape, device=self._base.device)
        if bool(counted.any()):
            found = self._scores(hidden, rows[counted], batch.targets[counted])
            logp = logp.masked_scatter(counted[..., None], found)
        loss = self._loss.formula(logp, batch.inputs, self._config)
        # Padding is masked here: its inputs are 0, but dro counts places of every input.
        # In float64, so that a long sum loses nothing.
        total = torch.where(batch.valid, loss, 0.0).sum(dtype=torch.float64)
        if self._backward and total.requires_grad:
            total.backward()  # pyright: ignore[reportUnknownMemberType]
        self._measure(float(total.detach()), logp.detach(), batch)
        host = logp.detach().to("cpu", torch.float32)
        for row, (index, datum) in enumerate(zip(scored.indices, scored.data, strict=True)):
            places, columns = datum.targets.shape
            self._logprobs[index][-places:] = host[row, :places, :columns]

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
