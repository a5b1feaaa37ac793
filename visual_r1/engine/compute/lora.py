"""LoRA adapters (Hu et al., 2021): many of them over one base model.

peft puts one set of low-rank modules into the network for each (rank, what is trained), a `Slot`.
An adapter's weights are one flat float32 vector outside the network; before a computation the
slot's parameters are pointed at pieces of it, and the parameters' gradients at pieces of a flat
gradient vector. So thousands of adapters share the modules, changing adapter copies nothing, and
optimizer, snapshot and checkpoint each handle one vector. What is saved are the pieces by name:
with Adam's moments for the engine's own checkpoints, without them for a folder that peft loads.
"""

import math
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from visual_r1.engine.compute import experts, low_rank
from visual_r1.engine.compute.base_model import BaseModel, family_and_shapes, is_finite
from visual_r1.engine.compute.families.family import LoraModules
from visual_r1.engine.compute.families.products import LowRank
from visual_r1.engine.compute.training_memory import Kept
from visual_r1.engine.types import SECOND_MOMENT, STEPS, InvalidRequest, LoraSpec, check_spec

LORA_ALPHA = 32
"""Updates are scaled by 32 / rank at every rank, as Tinker does: a learning rate that suits the
hosted service suits this engine, and much the same one suits every rank."""

FIRST_MOMENT = "adam.first_moment."
_PEFT_PREFIX = "base_model.model."

SlotKey: TypeAlias = tuple[int, "Targets"]


@dataclass(frozen=True)
class Targets:
    """What an adapter is put on, by the endings of names, as peft matches them."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    """Of a mixture of experts: parameters of three dimensions, the experts of a layer in each."""

    @staticmethod
    def of(spec: LoraSpec, modules: LoraModules, *, experts: bool) -> "Targets":
        """Those of a family's modules that the spec trains; with `experts` theirs too."""
        return Targets(
            (
                *(modules.attention if spec.train_attn else ()),
                *(modules.mlp if spec.train_mlp else ()),
                *(modules.unembed if spec.train_unembed else ()),
            ),
            modules.experts if experts and spec.train_mlp else (),
        )


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
    broken: str | None = None
    """What made the weights unusable, once something has."""

    def require_sound(self) -> None:
        """Raise `InvalidRequest`, with what broke them, where weights or moments are not finite."""
        if self.broken is None:
            vectors = (self.weights, self.first_moment, self.second_moment)
            if not all(map(is_finite, vectors)):
                self.broken = "its weights are not finite"
        if self.broken is not None:
            raise InvalidRequest(
                f"this model cannot be used any more: {self.broken}; nothing of it is saved or "
                "computed. Go on from its last checkpoint, with a lower learning rate."
            )

    @staticmethod
    def fresh(spec: LoraSpec, weights: Tensor) -> "Adapter":
        """An adapter with these weights, no gradients, and an optimizer that took no step."""
        gradients, first_moment, second_moment = (torch.zeros_like(weights) for _ in range(3))
        return Adapter(spec, weights, gradients, first_moment, second_moment)

    def frozen(self) -> "FrozenWeights":
        """A copy of the weights."""
        return FrozenWeights(self.spec, self.weights.clone())


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

    def __init__(self, base: BaseModel, name: str, rank: int, targets: Targets) -> None:
        """Inject the modules; the base model's own weights are shared and stay as they are."""
        config = lora_config(rank, targets)
        with warnings.catch_warnings():
            # peft warns that lm_head is tied to the embeddings. That is meant: the adapter sits on
            # the output side alone, and nothing is merged.
            warnings.simplefilter("ignore")
            inject_adapter_in_model(config, cast(Any, base.network), adapter_name=name)
        low_rank.install(base.network)
        experts.install(base.network)
        self.name = name
        self.kept = Kept()
        self._rank = rank
        self.pieces = tuple(_pieces(base.network, name))
        self.size = self.pieces[-1].stop
        # What peft drew for them is never used: they are bound before anything is computed.
        for piece in self.pieces:
            piece.parameter.data = piece.parameter.data.new_empty(0)
        tower = f"{base.family.vision_tower}."
        self.trains_vision = any(piece.name.startswith(tower) for piece in self.pieces)

    def bind(self, weights: Tensor, gradients: Tensor | None = None) -> None:
        """Point the modules at `weights`, and their gradients at `gradients`."""
        for piece in self.pieces:
            parameter = piece.parameter
            # `data` and not `copy_`: nothing is copied, and autograd does not see the exchange.
            parameter.data = weights[piece.start : piece.stop].view(piece.shape)
            parameter.requires_grad_(gradients is not None)
            parameter.grad = None
            if gradients is not None:
                parameter.grad = gradients[piece.start : piece.stop].view(piece.shape)

    def low_rank(self, weights: Tensor) -> LowRank:
        """A and scaled B of each module and of experts, views of `weights` but for the scale."""
        sides: dict[str, Tensor] = {
            piece.name: weights[piece.start : piece.stop].view(piece.shape) for piece in self.pieces
        }
        return {
            name: (a, sides[f"{name}.lora_B.weight"] * (LORA_ALPHA / self._rank))
            for full, a in sides.items()
            if (name := full.removesuffix(".lora_A.weight")) != full
        }

    def initial_weights(self, seed: int | None, device: torch.device) -> Tensor:
        """A uniform in ±1/sqrt(fan-in) (LoRA's own choice), B zero; a function of the seed."""
        # A generator of its own, on the CPU: the same start on every device, no global state.
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

    def flattened(
        self, named: Mapping[str, Tensor], device: torch.device, prefix: str = ""
    ) -> Tensor:
        """The inverse of `named`, of names behind `prefix`.

        Raises `InvalidRequest` when a piece is missing or misshapen.
        """
        flat = torch.zeros(self.size)
        for piece in self.pieces:
            values = named.get(prefix + piece.name)
            form = None if values is None else (values.dtype, tuple(values.shape))
            if values is None or form != (torch.float32, piece.shape):
                found = "is missing" if values is None else f"is {values.dtype} {values.shape}"
                raise InvalidRequest(
                    f"the saved weights do not fit this model: {prefix}{piece.name} {found}, where "
                    f"float32 {piece.shape} is needed; load them over the base model they were "
                    "trained on."
                )
            flat[piece.start : piece.stop] = values.flatten()
        return flat.to(device)

    def require_nothing_else(self, named: Mapping[str, Tensor]) -> None:
        """Raise `InvalidRequest` where there are tensors that no adapter of this slot has."""
        known = {piece.name for piece in self.pieces}
        prefixes = (FIRST_MOMENT, SECOND_MOMENT)
        for name in named:
            plain = next((name.removeprefix(one) for one in prefixes if name.startswith(one)), name)
            if plain not in known and name != STEPS:
                raise InvalidRequest(
                    f"the saved weights do not fit this model: it has no {name}; load them over "
                    "the base model they were trained on."
                )


class Slots:
    """All slots of a base model; they are made when first needed, and one is active at a time."""

    def __init__(self, base: BaseModel) -> None:
        """Start with the bare base model."""
        self._base = base
        experts.install(base.network)
        self._slots: dict[SlotKey, Slot] = {}
        self._active: Slot | None = None
        self._is_known = True
        """Whether `_active` is so: a slot that is made sets its own layers."""

    def of(self, spec: LoraSpec) -> Slot:
        """The slot for a spec. Raises `InvalidRequest` when the spec cannot be served."""
        check_spec(spec)
        base = self._base
        targets = Targets.of(spec, base.family.lora, experts=base.is_mixture_of_experts)
        key = (spec.rank, targets)
        if key not in self._slots:
            shapes = {name: values.shape for name, values in base.network.named_parameters()}
            require_experts(base.name, shapes, targets)
            name = f"slot{len(self._slots)}"
            self._is_known = False
            self._slots[key] = Slot(self._base, name, spec.rank, targets)
        return self._slots[key]

    def activate(self, slot: Slot | None) -> None:
        """Compute with this slot from now on; None is the base model alone."""
        if self._is_known and slot is self._active:
            return
        for layer in self._base.network.modules():
            if isinstance(layer, LoraLayer):
                layer.enable_adapters(slot is not None)
                if slot is not None:
                    layer.set_adapter(slot.name)
        self._active, self._is_known = slot, True


def require_experts(model: str, shapes: Mapping[str, Sequence[int]], targets: Targets) -> None:
    """Raise `InvalidRequest` unless each of the targets' experts is there in three dimensions."""
    plain = {name.replace(".base_layer", ""): shape for name, shape in shapes.items()}
    for wanted in targets.parameters:
        found = [shape for name, shape in plain.items() if name.endswith(f".{wanted}")]
        if not found or any(len(shape) != 3 for shape in found):
            raise InvalidRequest(
                f"{model} is a mixture of experts that are not held as {wanted} [experts, rows, "
                "columns], so no LoRA can be put on them: leave the MLPs as they are "
                "(train_mlp=False; in a run --no-model.train_mlp)."
            )


def lora_config(rank: int, targets: Targets) -> LoraConfig:
    """The peft configuration of a slot, also of its export."""
    return LoraConfig(
        r=rank,
        lora_alpha=LORA_ALPHA,
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
        lora_dropout=0.0,
        bias="none",
    )


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
    slot.require_nothing_else(tensors)
    adapter = Adapter.fresh(spec, slot.flattened(tensors, device))
    if optimizer:
        if STEPS not in tensors:
            raise InvalidRequest(
                "the saved state holds no optimizer: it was saved as sampler weights; load it "
                "without the optimizer."
            )
        adapter.first_moment = slot.flattened(tensors, device, FIRST_MOMENT)
        adapter.second_moment = slot.flattened(tensors, device, SECOND_MOMENT)
        adapter.steps = int(tensors[STEPS].item())
    return adapter


def peft_folder(
    base: BaseModel, spec: LoraSpec, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json, and the tensors of adapter_model.safetensors, for the base model."""
    targets = Targets.of(spec, base.family.lora, experts=base.is_mixture_of_experts)
    config = lora_config(spec.rank, targets)
    config.base_model_name_or_path = base.name
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


def adapter_bytes(model: str, spec: LoraSpec) -> int | None:
    """Bytes of an adapter's float32 weights: rank * (in + out) numbers for each matrix it trains.

    None where the model is not on this machine, or where no family here knows it. Raises
    `InvalidRequest` when the spec cannot be served.
    """
    check_spec(spec)
    found = family_and_shapes(model)
    if found is None:
        return None
    family, model_type, shapes = found
    targets = Targets.of(spec, family.lora, experts=model_type in family.mixtures_of_experts)
    require_experts(model, shapes, targets)
    modules = tuple(f".{name}" for name in targets.modules)
    trained = [
        shape
        for name, shape in shapes.items()
        if len(shape) == 2 and f".{name}".removesuffix(".weight").endswith(modules)
    ]
    experts = tuple(f".{name}" for name in targets.parameters)
    for name, shape in shapes.items():
        if experts and name.endswith(experts):
            trained += [shape[1:]] * shape[0]
    if spec.train_unembed and "lm_head.weight" not in shapes:  # tied to the embeddings
        trained += [shape for name, shape in shapes.items() if name.endswith("embed_tokens.weight")]
    return 4 * spec.rank * sum(map(sum, trained)) or None


def _pieces(network: nn.Module, slot: str) -> Iterator[_Piece]:
    start = 0
    named = cast("Iterator[tuple[str, nn.Module]]", network.named_modules())
    for module_name, module in named:
        if not isinstance(module, LoraLayer) or slot not in module.lora_A:
            continue
        for side in ("lora_A", "lora_B"):
            matrix = cast(nn.Linear, getattr(module, side)[slot])
            # Also over a base in bfloat16: an update of 1e-5 would be lost in its eight bits.
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
