"""Training data, checked before anything is computed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import of_array
from visual_r1.engine.compute.losses import LOSSES, Loss
from visual_r1.engine.compute.prompts import ImageReader, Layout, lay_out
from visual_r1.engine.types import Datum, InvalidRequest


@dataclass(frozen=True)
class Example:
    """A datum that fits the model and the loss."""

    layout: Layout
    targets: Tensor
    """int64 [T, K]; K is 1 but for cross_entropy on several weighted targets a position."""
    inputs: Mapping[str, Tensor]
    """float32 [T, K] each, exactly those that the loss needs."""
    shape: tuple[int, ...]
    """The shape that target_tokens came in: [T] or [T, K]."""
    silent: int = 0
    """How many places at its start bear on no loss."""


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right to [B, L, K]; `valid` marks what is not padding."""

    targets: Tensor
    inputs: Mapping[str, Tensor]
    valid: Tensor


def find_loss(name: str, config: Mapping[str, float]) -> tuple[Loss, dict[str, float]]:
    """The loss of that name, and its configuration over the defaults.

    Raises `InvalidRequest` for an unknown name or key, or a value that is not a finite number.
    """
    loss = LOSSES.get(name)
    if loss is None:
        raise InvalidRequest(f"loss_fn {name!r} is unknown; this engine has {', '.join(LOSSES)}.")
    for key, value in config.items():
        if key not in loss.defaults:
            known = ", ".join(loss.defaults) or "no keys"
            raise InvalidRequest(f"loss_fn_config of {name} has {key!r}, and takes {known}.")
        if not math.isfinite(value):
            raise InvalidRequest(f"loss_fn_config {key} is {value}; it must be a finite number.")
    return loss, {**loss.defaults, **config}


def read_examples(
    base: BaseModel,
    images: ImageReader,
    data: Sequence[Datum],
    loss_name: str,
    *,
    backward: bool,
) -> list[Example]:
    """Check all data; raises `InvalidRequest` naming the datum and what is wrong with it."""
    if not data:
        raise InvalidRequest("the request holds no data; send at least one datum.")
    examples: list[Example] = []
    for index, datum in enumerate(data):
        try:
            examples.append(_read(base, images, datum, loss_name, backward))
        except InvalidRequest as error:
            raise InvalidRequest(f"datum {index}: {error}") from error
    return examples


def pad(examples: Sequence[Example], length: int, device: torch.device) -> Batch:
    """Put examples of at most `length` places into one batch."""
    shape = (len(examples), length, max(example.targets.shape[1] for example in examples))
    targets = torch.zeros(shape, dtype=torch.long)
    valid = torch.zeros(shape, dtype=torch.bool)
    inputs = {name: torch.zeros(shape) for name in examples[0].inputs}
    for row, example in enumerate(examples):
        places, width = example.targets.shape
        targets[row, :places, :width] = example.targets
        valid[row, :places, :width] = True
        for name, values in example.inputs.items():
            inputs[name][row, :places, :width] = values
    return Batch(
        targets.to(device),
        {name: values.to(device) for name, values in inputs.items()},
        valid.to(device),
    )


def _read(
    base: BaseModel, images: ImageReader, datum: Datum, loss_name: str, backward: bool
) -> Example:
    layout = lay_out(base, images, datum.prompt)
    targets = _targets(datum, layout.length, base.vocabulary_size, loss_name)
    inputs: dict[str, Tensor] = {}
    for name in LOSSES[loss_name].inputs:
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
    bearing = LOSSES[loss_name].bearing
    silent = 0 if bearing is None else _leading_zeros(inputs[bearing])
    return Example(layout, _columns(targets), inputs, targets.shape, silent)


def _leading_zeros(values: Tensor) -> int:
    """Rows of [T, K] before the first that is not all zero."""
    bearing = (values != 0).any(dim=1)
    return int(bearing.int().argmax()) if bool(bearing.any()) else len(values)


def _targets(datum: Datum, length: int, vocabulary_size: int, loss_name: str) -> np.ndarray:
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
    tensor = of_array(values)
    return tensor if tensor.ndim == 2 else tensor[:, None]
