"""Training data: checked before anything is computed, then padded into minibatches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import of_array
from visual_r1.engine.compute.losses import LOSSES
from visual_r1.engine.compute.prompts import ImageReader, Layout, lay_out
from visual_r1.engine.types import Datum, InvalidRequest


@dataclass(frozen=True)
class CheckedDatum:
    """A datum that fits the model and the loss."""

    layout: Layout
    targets: Tensor
    """int64 [T, K]; K is 1 but for cross_entropy on several weighted targets a position."""
    inputs: Mapping[str, Tensor]
    """float32 [T, K] each, exactly those that the loss needs."""
    shape: tuple[int, ...]
    """The shape that target_tokens came in: [T] or [T, K]."""
    masked_prefix: int = 0
    """How many places at its start add nothing to the loss."""

    def behind(self, places: int) -> "CheckedDatum":
        """What is left of it without its first `places` places, which hold all its images."""
        return replace(
            self,
            layout=self.layout.behind(places),
            targets=self.targets[places:],
            inputs={name: values[places:] for name, values in self.inputs.items()},
        )


@dataclass(frozen=True)
class PaddedTargets:
    """Targets and inputs of B data, padded on the right to [B, L, K]."""

    targets: Tensor
    inputs: Mapping[str, Tensor]
    valid: Tensor
    """bool; false where there is padding."""


def check_data(
    base: BaseModel,
    images: ImageReader,
    data: Sequence[Datum],
    loss_name: str,
    *,
    backward: bool,
) -> list[CheckedDatum]:
    """Check all data; raises `InvalidRequest` naming the datum and what is wrong with it."""
    if not data:
        raise InvalidRequest("the request holds no data; send at least one datum.")
    checked: list[CheckedDatum] = []
    for index, datum in enumerate(data):
        try:
            checked.append(_check(base, images, datum, loss_name, backward))
        except InvalidRequest as error:
            raise InvalidRequest(f"datum {index}: {error}") from error
    return checked


def pad(data: Sequence[CheckedDatum], length: int, device: torch.device) -> PaddedTargets:
    """Put targets and inputs of data of at most `length` places side by side."""
    shape = (len(data), length, max(datum.targets.shape[1] for datum in data))
    targets = torch.zeros(shape, dtype=torch.long)
    valid = torch.zeros(shape, dtype=torch.bool)
    inputs = {name: torch.zeros(shape) for name in data[0].inputs}
    for row, datum in enumerate(data):
        places, width = datum.targets.shape
        targets[row, :places, :width] = datum.targets
        valid[row, :places, :width] = True
        for name, values in datum.inputs.items():
            inputs[name][row, :places, :width] = values
    return PaddedTargets(
        targets.to(device),
        {name: values.to(device) for name, values in inputs.items()},
        valid.to(device),
    )


def _check(
    base: BaseModel, images: ImageReader, datum: Datum, loss_name: str, backward: bool
) -> CheckedDatum:
    loss = LOSSES[loss_name]
    layout = lay_out(base, images, datum.prompt)
    targets = _checked_targets(datum, layout.length, base.vocabulary_size, loss_name)
    inputs: dict[str, Tensor] = {}
    for name in loss.inputs:
        values = datum.inputs.get(name)
        if values is None and name == "weights" and not backward:
            # The SDK's custom losses begin with a forward pass on data that have targets alone.
            values = np.ones(targets.shape, np.float32)
        if values is None:
            given = ", ".join(datum.inputs) or "nothing"
            raise InvalidRequest(f"{loss_name} needs the input {name!r}, and {given} was sent.")
        if values.shape != targets.shape:
            raise InvalidRequest(
                f"input {name!r} has the shape {list(values.shape)}, and target_tokens has "
                f"{list(targets.shape)}; they go place by place."
            )
        if not np.isfinite(values).all():
            raise InvalidRequest(f"input {name!r} holds a value that is not finite.")
        inputs[name] = _columns(values.astype(np.float32))
    if "sequence_ratio_mask" in inputs and not inputs["sequence_ratio_mask"].any():
        raise InvalidRequest(
            f"sequence_ratio_mask is 0 at every place; {loss_name} takes its ratio over the places "
            "where it is not: those of the sampled tokens."
        )
    masked_prefix = 0
    if loss.masked_by:
        counts = torch.cat([inputs[name] != 0 for name in loss.masked_by], dim=1).any(dim=1)
        masked_prefix = int(counts.int().argmax()) if bool(counts.any()) else len(counts)
    return CheckedDatum(layout, _columns(targets), inputs, targets.shape, masked_prefix)


def _checked_targets(datum: Datum, length: int, vocabulary_size: int, loss_name: str) -> np.ndarray:
    """int64 [T] or [T, K]."""
    targets = datum.inputs.get("target_tokens")
    if targets is None:
        given = ", ".join(datum.inputs) or "nothing"
        raise InvalidRequest(f"{loss_name} needs the input 'target_tokens', and {given} was sent.")
    if targets.ndim not in (1, 2) or 0 in targets.shape:
        raise InvalidRequest(
            f"target_tokens has the shape {list(targets.shape)}; one number or one row a place is "
            "needed."
        )
    if targets.ndim == 2 and loss_name != "cross_entropy":
        raise InvalidRequest(
            f"target_tokens has the shape {list(targets.shape)}; several targets a place are for "
            f"cross_entropy, and {loss_name} takes one."
        )
    if len(targets) != length:
        raise InvalidRequest(
            f"target_tokens has {len(targets)} places and the model input {length}, image tokens "
            "included; they must be equal."
        )
    if not np.issubdtype(targets.dtype, np.integer):
        raise InvalidRequest(f"target_tokens is of type {targets.dtype}; token ids are integers.")
    if targets.min() < 0 or targets.max() >= vocabulary_size:
        raise InvalidRequest(
            f"target_tokens holds ids from {targets.min()} to {targets.max()}; the model has 0 to "
            f"{vocabulary_size - 1}."
        )
    return targets.astype(np.int64)


def _columns(values: np.ndarray) -> Tensor:
    """[T, K] of [T] or [T, K]."""
    tensor = of_array(values)
    return tensor if tensor.ndim == 2 else tensor[:, None]
