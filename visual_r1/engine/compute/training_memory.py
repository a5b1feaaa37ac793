"""How much of a training pass is held at a time, decided by the memory that there is.

What a place takes is measured and not guessed: the network is run on a few places and on twice as
many, and what autograd keeps of them is counted. With activation checkpointing it keeps the input
of each layer, and all of one layer while that is computed again; that takes a third more time, so
it is done only where a minibatch would not fit without.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.datums import CheckedDatum
from visual_r1.engine.compute.device_rules import TRAINING_SHARE
from visual_r1.engine.compute.forward import distinct, packed_states, run_tower
from visual_r1.engine.compute.packing import Packing
from visual_r1.engine.compute.prompts import Layout

PROBE = 64
"""So many places are run, and twice as many, to see what one takes and what is kept besides."""

TOWER_SHARE = 0.3
LOGITS_SHARE = 0.25
"""Of the memory, at most, for what the vision tower keeps, and for logits with their gradients."""

LOGIT_BYTES = 12
"""A logit in float32, its gradient, and that in the weights' type, or for a while once more."""

WORTH = 4096
"""Places of a minibatch from which on more are no faster: checkpointing buys up to so many."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a pass holds at a time."""

    places: int
    """Of a minibatch, at most."""
    group: int
    """Of a group that is not taken apart."""
    checkpoints: bool
    """Whether the text stack's activations are computed again in the backward pass."""
    keeps_tower: bool
    """Whether the vision tower's run is kept for the backward pass, or done again there."""
    checkpoints_tower: bool
    logits: int
    """Held at a time, at most, but for those of the fewest rows (see `forward.logit_rows`)."""

    @staticmethod
    def smallest(places: int) -> "TrainingPlan":
        """The plan that takes the least memory with so many places."""
        return TrainingPlan(
            places=places,
            group=places,
            checkpoints=True,
            keeps_tower=False,
            checkpoints_tower=True,
            logits=0,
        )

    def smaller(self) -> "TrainingPlan":
        """What to try where this plan found no memory."""
        places = max(1, self.places // 2)
        return replace(
            self,
            places=places,
            group=min(self.group // 2, places),
            checkpoints=True,
            checkpoints_tower=True,
            logits=self.logits // 2,
        )


@dataclass
class Kept:
    """Bytes that autograd keeps of a run with one adapter, where they were measured."""

    patch: int | None = None
    """Of each patch in the vision tower."""
    place: int | None = None
    """Of each place in the text stack."""
    besides: int = 0
    """There, however many places: the adapter in the weights' type, of a mixture's experts a
    gigabyte and more."""


def plan_training(
    base: BaseModel, data: Sequence[CheckedDatum], kept: Kept, *, backward: bool
) -> TrainingPlan:
    """A plan for these data in the memory that the device's rules say is free.

    Sizes are powers of two: a little more or less of free memory leaves the plan, and with it each
    bit of the result, as it is. `kept` is of the adapter that is active, and filled in here.
    """
    rules = base.rules
    patches = sum(
        len(image.patches)
        for image in distinct(image for datum in data for image in datum.layout.images)
    )
    plan = TrainingPlan(
        places=rules.training_places,
        group=rules.group_places,
        checkpoints=False,
        keeps_tower=patches <= rules.tower_patches,
        checkpoints_tower=False,
        logits=rules.logits_at_once,
    )
    if rules.free_bytes is None:
        return plan
    free = int(rules.free_bytes() * TRAINING_SHARE)
    logits = max(1, int(free * LOGITS_SHARE) // LOGIT_BYTES)
    plan = replace(plan, logits=min(plan.logits, _power_of_two(logits)))
    if not backward:
        return plan
    left = int(free * (1 - LOGITS_SHARE))
    plan, taken = _with_tower(base, data, kept, plan, patches, int(free * TOWER_SHARE))
    return _with_text(base, kept, plan, left - taken)


def _with_tower(
    base: BaseModel,
    data: Sequence[CheckedDatum],
    kept: Kept,
    plan: TrainingPlan,
    patches: int,
    room: int,
) -> tuple[TrainingPlan, int]:
    """The plan for the vision tower, and the bytes that it holds while the text is computed."""
    images = distinct(image for datum in data for image in datum.layout.images)
    if not images:
        return plan, 0
    if kept.patch is None:
        least = min(images, key=lambda image: len(image.patches))
        kept.patch = saved_bytes(base, lambda: run_tower(base, [least])) // len(least.patches)
    if kept.patch * patches <= room:
        return replace(plan, keeps_tower=True), kept.patch * patches
    tower = base.network.get_submodule(base.family.vision_tower)
    blocks = sum(
        1
        for module in tower.modules()
        if getattr(module, "gradient_checkpointing", None) is not None
    )
    thin = 2 * kept.patch // max(1, blocks)
    if thin * patches <= room:
        return replace(plan, keeps_tower=True, checkpoints_tower=True), thin * patches
    return replace(plan, keeps_tower=False, checkpoints_tower=True), 0


def _with_text(base: BaseModel, kept: Kept, plan: TrainingPlan, room: int) -> TrainingPlan:
    """The plan for the text stack in so many bytes."""
    config = cast(Any, base.network).config.get_text_config()
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    if kept.place is None:
        few = saved_bytes(base, lambda: _probe(base, PROBE))
        more = saved_bytes(base, lambda: _probe(base, 2 * PROBE))
        kept.place, kept.besides = max(1, (more - few) // PROBE), max(0, 2 * few - more)
    if (fits := (room - kept.besides) // kept.place) >= min(WORTH, plan.places):
        places = min(plan.places, _power_of_two(fits))
        return replace(plan, places=places, group=min(plan.group, places))
    # A layer while it is computed again, with the gradients of what it holds, and all inputs, which
    # are float32 whatever the weights are (see `residual`).
    thin = 2 * kept.place // layers + layers * width * torch.float32.itemsize
    places = min(plan.places, _power_of_two((room - 2 * kept.besides // layers) // thin))
    return replace(plan, places=places, group=min(plan.group, places), checkpoints=True)


def _power_of_two(most: int) -> int:
    """The largest that is not above `most`, at least 1."""
    return 1 << (max(1, most).bit_length() - 1)


def _probe(base: BaseModel, places: int) -> Tensor:
    """A run over so many places, a multiple of 16, of which the last one is the dummy."""
    axes, length = len(base.family.text_positions(0, 1)), places - 1
    layout = Layout(
        tokens=np.zeros(length, np.int64),
        positions=np.zeros((axes, length), np.int64),
        is_image=np.zeros(length, bool),
        images=(),
        next_position=length,
    )
    packing = Packing.of([length], [], base.device, base.dtype)
    return packed_states(base, [layout], {}, packing)


def saved_bytes(base: BaseModel, run: Callable[[], Tensor]) -> int:
    """The bytes that autograd keeps of a run, without the network's own parameters; at least 1."""
    own = {values.untyped_storage().data_ptr() for values in base.network.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run()
    del output
    return max(1, sum(found.values()))
