"""Experts, with LoRAs of their own, computed as grouped products.

Tokens are sorted by expert, and each expert's share of them goes through its own matrices in one
kernel for all experts (`grouped_mm`). peft adds B A to every expert's matrix instead, whether a
token reads it or not: for 128 experts of a layer that is a copy of the layer, forward and back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.moe import (
    _grouped_mm as grouped_mm,  # pyright: ignore[reportPrivateUsage]
)

from visual_r1.engine.compute.packing import moved

PARAMETERS = ("gate_up_proj", "down_proj")
"""Of a layer's experts, in the order that a token goes through them."""

_ALIGNED = 8
"""The kernel wants rows of 16 bytes: ranks are filled up with zeros to a multiple of this."""


def install(network: nn.Module) -> None:
    """Let experts compute as this module does, where they are of its form.

    Those without a LoRA too: transformers' own count their tokens by a kernel (`histc`) that torch
    refuses where sums must have an order.
    """
    inner = {
        id(module.base_layer) for module in network.modules() if isinstance(module, ParamWrapper)
    }
    for module in network.modules():
        if id(module) not in inner and are_plain(experts_of(module)):
            module.forward = MethodType(_forward, module)


def asks_host(weight: Tensor) -> bool:
    """Whether a product with these weights [experts, …] asks the host how many rows each expert
    has, which no CUDA graph can record.

    torch (up to 2.13) has one kernel for all experts in bfloat16 on Hopper and on Blackwell's
    servers (compute capability 9 and 10); elsewhere it goes expert by expert.
    """
    if weight.dtype != torch.bfloat16:
        return True
    if not weight.is_cuda:
        return False
    major, _ = torch.cuda.get_device_capability(weight.device)
    return torch.version.hip is not None or major not in (9, 10)


def experts_of(module: nn.Module) -> nn.Module:
    """The module itself, without the LoRAs around it."""
    return cast(Any, module).get_base_layer() if isinstance(module, ParamWrapper) else module


def are_plain(module: nn.Module) -> bool:
    """Whether a module holds experts of the form that is computed here: gated, without biases."""
    given = cast(Any, module)
    if not all(hasattr(module, name) for name in (*PARAMETERS, "has_gate")):
        return False
    odd = given.is_transposed or given.has_bias or given.has_post_expert_norm
    return bool(given.has_gate and not odd)


@dataclass(frozen=True)
class Adapted:
    """A parameter [experts, out, in], and perhaps a LoRA on it, of one type."""

    weight: Tensor
    down: Tensor | None = None
    """[experts, r, in]."""
    up: Tensor | None = None
    """[experts, out, r]."""
    scale: float = 1.0

    @staticmethod
    def of(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> "Adapted":
        """A and B as peft lays them out: A expert by expert [experts * r, in], B [out, r * experts]
        with the expert as its last axis."""
        count = len(weight)
        down = a.view(count, -1, a.shape[1])
        up = b.view(b.shape[0], -1, count).permute(2, 0, 1)
        if missing := -down.shape[1] % _ALIGNED:
            down, up = functional.pad(down, (0, 0, 0, missing)), functional.pad(up, (0, missing))
        return Adapted(weight, down.to(weight.dtype), up.to(weight.dtype).contiguous(), scale)

    def product(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Rows [n, in], sorted by expert, to [n, out]; expert e's rows end at ends[e]."""
        output = grouped_mm(rows, self.weight.transpose(1, 2), ends)
        if self.down is None or self.up is None:
            return output
        inner = grouped_mm(rows, self.down.transpose(1, 2), ends)
        return output.add(grouped_mm(inner, self.up.transpose(1, 2), ends), alpha=self.scale)


def mixed(
    experts: nn.Module,
    into: Adapted,
    back: Adapted,
    hidden: Tensor,
    index: Tensor,
    weights: Tensor,
) -> Tensor:
    """Hidden states [n, width], the k experts of each and their weights [n, k], to [n, width]."""
    given = cast(Any, experts)
    places, chosen = index.shape
    order = index.flatten().argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    # By comparison and not by counting: that would wait for the card.
    numbers = torch.arange(given.num_experts, device=order.device)
    ends = (index.flatten()[:, None] <= numbers).sum(0, dtype=torch.int32)

    gate_up = into.product(_Spread.of(hidden, order, inverse, chosen), ends)
    rows = back.product(given._apply_gate(gate_up), ends)
    rows = rows * moved(weights.flatten(), order, inverse)[:, None]
    return moved(rows, inverse, order).view(places, chosen, -1).sum(1).to(hidden.dtype)


def _forward(
    outermost: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    experts = experts_of(outermost)
    adapted = {wrapper.parameter_name: _adapted(wrapper) for wrapper in wrappers(outermost)}
    into, back = (
        adapted.get(name, Adapted(cast(Tensor, getattr(experts, name)))) for name in PARAMETERS
    )
    return mixed(experts, into, back, hidden_states, top_k_index, top_k_weights)


class _Spread(torch.autograd.Function):
    """Each token once for each of its k experts, sorted by expert; gradients are summed over k."""

    @staticmethod
    def of(hidden: Tensor, order: Tensor, inverse: Tensor, chosen: int) -> Tensor:
        """Row i is token order[i] // chosen."""
        return cast(Any, _Spread).apply(hidden, order, inverse, chosen)

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, order: Tensor, inverse: Tensor, chosen: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.chosen = chosen
        return hidden.index_select(0, order // chosen)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        by_token = gradients[0].index_select(0, inverse)
        return by_token.view(-1, ctx.chosen, by_token.shape[1]).sum(1), None, None, None


def wrappers(outermost: nn.Module) -> Iterator[ParamWrapper]:
    """The wrappers around experts, from the outside, one for each parameter with a LoRA."""
    wrapper = outermost
    while isinstance(wrapper, ParamWrapper):
        yield wrapper
        wrapper = wrapper.base_layer


def _adapted(wrapper: ParamWrapper) -> Adapted:
    weight = cast(Tensor, wrapper.get_param())
    active = [name for name in wrapper.active_adapters if name in wrapper.lora_A]
    if wrapper.disable_adapters or not active:
        return Adapted(weight)
    (name,) = active
    a, b = (cast(nn.Linear, side[name]).weight for side in (wrapper.lora_A, wrapper.lora_B))
    return Adapted.of(weight, a, b, float(cast(Any, wrapper).scaling[name]))
