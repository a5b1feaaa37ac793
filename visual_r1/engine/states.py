"""Adapters as named tensors: checkpoints of the engine, and folders that peft loads."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from visual_r1.engine.adapters import Adapter, FrozenWeights, Slot, lora_config
from visual_r1.engine.requests import InvalidRequest, LoraSpec
from visual_r1.engine.targets import target_modules

FIRST_MOMENT = "adam.first_moment."
SECOND_MOMENT = "adam.second_moment."
STEPS = "adam.steps"
_PEFT_PREFIX = "base_model.model."


def adapter_tensors(slot: Slot, adapter: Adapter, *, optimizer: bool) -> dict[str, Tensor]:
    """Weights, and with `optimizer` Adam's state, by name, on the CPU."""
    tensors = slot.named(adapter.weights)
    if optimizer:
        for prefix, moment in (
            (FIRST_MOMENT, adapter.first_moment),
            (SECOND_MOMENT, adapter.second_moment),
        ):
            tensors |= {prefix + name: values for name, values in slot.named(moment).items()}
        tensors[STEPS] = torch.tensor([adapter.steps], dtype=torch.int64)
    return tensors


def adapter_from(
    slot: Slot,
    spec: LoraSpec,
    tensors: Mapping[str, Tensor],
    device: torch.device,
    *,
    optimizer: bool,
) -> Adapter:
    """The inverse of `adapter_tensors`; no gradients wait. Raises `InvalidRequest` on a misfit."""
    adapter = fresh_adapter(spec, slot.flattened(tensors, device))
    if optimizer:
        if STEPS not in tensors:
            raise InvalidRequest(
                "the saved state holds no optimizer: it was saved as sampler weights; load it "
                "without the optimizer."
            )
        adapter.first_moment = slot.flattened(_behind(FIRST_MOMENT, tensors), device)
        adapter.second_moment = slot.flattened(_behind(SECOND_MOMENT, tensors), device)
        adapter.steps = int(tensors[STEPS].item())
    return adapter


def fresh_adapter(spec: LoraSpec, weights: Tensor) -> Adapter:
    """An adapter with these weights, no gradients, and an optimizer that has taken no step."""
    return Adapter(
        spec=spec,
        weights=weights,
        gradients=torch.zeros_like(weights),
        first_moment=torch.zeros_like(weights),
        second_moment=torch.zeros_like(weights),
    )


def frozen(adapter: Adapter) -> FrozenWeights:
    """A copy of the weights."""
    return FrozenWeights(adapter.spec, adapter.weights.clone())


def peft_folder(
    spec: LoraSpec, tensors: Mapping[str, Tensor], base_model: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json, and the tensors of adapter_model.safetensors, for the base model."""
    config = lora_config(spec.rank, target_modules(spec))
    config.base_model_name_or_path = base_model
    config.inference_mode = True
    config.task_type = "CAUSAL_LM"
    written = {
        key: sorted(cast("set[str]", value)) if isinstance(value, set) else value
        for key, value in cast("dict[str, Any]", config.to_dict()).items()
    }
    weights = {
        _PEFT_PREFIX + name: values.detach().to("cpu", torch.float32).contiguous()
        for name, values in tensors.items()
        if not name.startswith("adam.")
    }
    return written, weights


def _behind(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): values
        for name, values in tensors.items()
        if name.startswith(prefix)
    }
