"""LoRA adapters: many of them over one base model.

peft puts one set of low-rank modules into the network for each (rank, what is trained), a `Slot`.
An adapter's weights are one flat float32 vector outside the network; before a computation the
slot's parameters are pointed at pieces of it, and the parameters' gradients at pieces of a flat
gradient vector. So thousands of adapters share the modules, changing adapter copies nothing, and
optimizer, snapshot and checkpoint each handle one vector.
"""

import math
import secrets
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from visual_r1.engine.base_model import BaseModel
from visual_r1.engine.requests import InvalidRequest, LoraSpec
from visual_r1.engine.targets import target_modules

LORA_ALPHA = 32
"""Updates are scaled by 32 / rank at every rank, as Tinker does: a learning rate that suits the
hosted service suits this engine, and much the same one suits every rank."""

SlotKey: TypeAlias = tuple[int, tuple[str, ...]]


@dataclass
class Adapter:
    """An adapter in training; all vectors float32 [N] on the engine's device."""

    spec: LoraSpec
    weights: Tensor
    gradients: Tensor
    first_moment: Tensor
    second_moment: Tensor
    steps: int = 0
    """Optimizer steps taken, which Adam's bias correction needs."""
    pending: int = 0
    """Backward passes whose gradients wait for the next optimizer step."""


@dataclass(frozen=True)
class FrozenWeights:
    """A copy of an adapter's weights, float32 [N], that training does not change."""

    spec: LoraSpec
    weights: Tensor


@dataclass(frozen=True)
class _Piece:
    """Where one low-rank matrix lies in the flat vector."""

    name: str
    parameter: nn.Parameter
    shape: tuple[int, ...]
    start: int
    stop: int


class Slot:
    """The low-rank modules of one (rank, targets) in the network, and the layout of its vector."""

    def __init__(self, base: BaseModel, name: str, rank: int, targets: tuple[str, ...]) -> None:
        """Inject the modules; the base model's own weights are shared and stay as they are."""
        config = lora_config(rank, targets)
        with warnings.catch_warnings():
            # peft warns that lm_head is tied to the embeddings. That is meant: the adapter sits on
            # the output side alone, and nothing is merged.
            warnings.simplefilter("ignore")
            inject_adapter_in_model(config, cast(Any, base.network), adapter_name=name)
        self.name = name
        self.pieces = tuple(_pieces(base.network, name))
        self.size = self.pieces[-1].stop
        self.trains_vision = any(piece.name.startswith("model.visual.") for piece in self.pieces)

    def bind(self, weights: Tensor, gradients: Tensor | None = None) -> None:
        """Point the modules at `weights`, and their gradients at `gradients`."""
        for piece in self.pieces:
            parameter = piece.parameter
            parameter.data = weights[piece.start : piece.stop].view(piece.shape)
            parameter.requires_grad_(gradients is not None)
            parameter.grad = None
            if gradients is not None:
                parameter.grad = gradients[piece.start : piece.stop].view(piece.shape)

    def initial_weights(self, seed: int | None, device: torch.device) -> Tensor:
        """A uniform in ±1/sqrt(fan-in) (LoRA's own choice), B zero; a function of the seed."""
        generator = torch.Generator().manual_seed(
            secrets.randbits(63) if seed is None else seed % 2**63
        )
        flat = torch.zeros(self.size)
        for piece in self.pieces:
            if "lora_A" in piece.name:
                bound = 1 / math.sqrt(piece.shape[1])
                values = torch.rand(piece.shape, generator=generator)
                flat[piece.start : piece.stop] = (values * 2 - 1).mul_(bound).flatten()
        return flat.to(device)

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """The pieces of a flat vector by name, as contiguous CPU copies."""
        host = flat.detach().to("cpu", copy=True)
        return {
            piece.name: host[piece.start : piece.stop].view(piece.shape).clone()
            for piece in self.pieces
        }

    def flattened(self, named: Mapping[str, Tensor], device: torch.device) -> Tensor:
        """The inverse of `named`; raises `InvalidRequest` when a piece is missing or misshapen."""
        flat = torch.zeros(self.size)
        for piece in self.pieces:
            values = named.get(piece.name)
            if values is None or tuple(values.shape) != piece.shape:
                found = "is missing" if values is None else f"has the shape {tuple(values.shape)}"
                raise InvalidRequest(
                    f"the saved weights do not fit this model: {piece.name} {found}, where "
                    f"{piece.shape} is needed; load them over the base model they were trained on."
                )
            flat[piece.start : piece.stop] = values.to(torch.float32).flatten()
        return flat.to(device)


class Slots:
    """All slots of a base model; they are made when first needed, and one is active at a time."""

    def __init__(self, base: BaseModel) -> None:
        """Start with the bare base model."""
        self._base = base
        self._slots: dict[SlotKey, Slot] = {}

    def of(self, spec: LoraSpec) -> Slot:
        """The slot for a spec. Raises `InvalidRequest` when the spec cannot be served."""
        targets = target_modules(spec)
        if self._base.is_mixture_of_experts and spec.train_mlp:
            raise InvalidRequest(
                "train_mlp is not served for mixture-of-experts models: their experts are not "
                "linear modules; create the adapter with train_mlp=False."
            )
        key = (spec.rank, targets)
        if key not in self._slots:
            name = f"slot{len(self._slots)}"
            self._slots[key] = Slot(self._base, name, spec.rank, targets)
        return self._slots[key]

    def activate(self, slot: Slot | None) -> None:
        """Compute with this slot from now on; None is the base model alone."""
        for layer in _lora_layers(self._base.network):
            layer.enable_adapters(slot is not None)
            if slot is not None:
                layer.set_adapter(slot.name)


def lora_config(rank: int, targets: tuple[str, ...]) -> LoraConfig:
    """The peft configuration of a slot, also of its export."""
    return LoraConfig(
        r=rank,
        lora_alpha=LORA_ALPHA,
        target_modules=list(targets),
        lora_dropout=0.0,
        bias="none",
    )


def _lora_layers(network: nn.Module) -> Iterator[Any]:
    for module in network.modules():
        if isinstance(module, LoraLayer):
            yield module


def _pieces(network: nn.Module, slot: str) -> Iterator[_Piece]:
    start = 0
    named = cast("Iterator[tuple[str, nn.Module]]", network.named_modules())
    for module_name, module in named:
        if not isinstance(module, LoraLayer) or slot not in module.lora_A:
            continue
        for side in ("lora_A", "lora_B"):
            matrix = cast(nn.Linear, getattr(module, side)[slot])
            matrix.to(torch.float32)
            stop = start + matrix.weight.numel()
            yield _Piece(
                name=f"{module_name}.{side}.weight",
                parameter=cast(nn.Parameter, matrix.weight),
                shape=tuple(matrix.weight.shape),
                start=start,
                stop=stop,
            )
            start = stop
