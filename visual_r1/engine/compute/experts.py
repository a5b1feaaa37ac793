"""Experts with LoRAs of their own, computed as grouped products.

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

from visual_r1.engine.compute.batching import round_up

_ALIGNED = 8
"""The kernel wants rows of 16 bytes: ranks are filled up with zeros to a multiple of this."""


def install(network: nn.Module) -> None:
    """Let experts with LoRAs on them compute as this module does, where they are of its form."""
    inner = {
        id(module.base_layer) for module in network.modules() if isinstance(module, ParamWrapper)
    }
    for module in network.modules():
        if isinstance(module, ParamWrapper) and id(module) not in inner:
            experts = cast(Any, module.get_base_layer())
            plain = not (experts.is_transposed or experts.has_bias or experts.has_post_expert_norm)
            if plain and experts.has_gate:
                module.forward = MethodType(_forward, module)


@dataclass(frozen=True)
class _Adapted:
    """A parameter [experts, out, in], and perhaps a LoRA on it."""

    weight: Tensor
    down: Tensor | None = None
    """[experts, r, in], float32."""
    up: Tensor | None = None
    """[experts, out, r], float32."""
    scale: float = 1.0

    def product(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Rows [n, in], sorted by expert, to [n, out]; expert e's rows end at ends[e]."""
        output = grouped_mm(rows, self.weight.transpose(1, 2), ends)
        if self.down is None or self.up is None:
            return output
        missing = round_up(self.down.shape[1], _ALIGNED) - self.down.shape[1]
        down = functional.pad(self.down, (0, 0, 0, missing)).to(rows.dtype)
        up = functional.pad(self.up, (0, missing)).to(rows.dtype).contiguous()
        inner = grouped_mm(rows, down.transpose(1, 2), ends)
        return output.add(grouped_mm(inner, up.transpose(1, 2), ends), alpha=self.scale)


def _forward(
    outermost: ParamWrapper, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Hidden states [n, width], the k experts of each and their weights [n, k], to [n, width]."""
    experts = cast(Any, outermost.get_base_layer())
    adapted = {wrapper.parameter_name: _adapted(wrapper) for wrapper in _wrappers(outermost)}
    into, back = (
        adapted.get(name, _Adapted(getattr(experts, name)))
        for name in ("gate_up_proj", "down_proj")
    )
    places, chosen = top_k_index.shape
    order = top_k_index.flatten().argsort(stable=True)
    # By comparison and not by counting: that would wait for the card.
    numbers = torch.arange(experts.num_experts, device=order.device)
    ends = (top_k_index.flatten()[:, None] <= numbers).sum(0, dtype=torch.int32)

    gate_up = into.product(_Spread.of(hidden_states, order, chosen), ends)
    rows = back.product(experts._apply_gate(gate_up), ends)
    rows = rows * top_k_weights.flatten()[order][:, None]
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return rows[inverse].view(places, chosen, -1).sum(1).to(hidden_states.dtype)


class _Spread(torch.autograd.Function):
    """Each token once for each of its k experts, sorted by expert; gradients are summed over k."""

    @staticmethod
    def of(hidden: Tensor, order: Tensor, chosen: int) -> Tensor:
        """Row i is token order[i] // chosen."""
        return cast(Any, _Spread).apply(hidden, order, chosen)

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, order: Tensor, chosen: int) -> Tensor:
        ctx.save_for_backward(order)
        ctx.chosen = chosen
        return hidden[order // chosen]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (order,) = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        by_token = torch.empty_like(gradients[0])
        by_token[order] = gradients[0]
        return by_token.view(-1, ctx.chosen, by_token.shape[1]).sum(1), None, None


def _wrappers(outermost: ParamWrapper) -> Iterator[ParamWrapper]:
    """The wrappers around experts, one for each parameter with a LoRA."""
    wrapper: nn.Module = outermost
    while isinstance(wrapper, ParamWrapper):
        yield wrapper
        wrapper = wrapper.base_layer


def _adapted(wrapper: ParamWrapper) -> _Adapted:
    weight = cast(Tensor, wrapper.get_param())
    active = [name for name in wrapper.active_adapters if name in wrapper.lora_A]
    if wrapper.disable_adapters or not active:
        return _Adapted(weight)
    (name,) = active
    down, up = (cast(nn.Linear, side[name]).weight for side in (wrapper.lora_A, wrapper.lora_B))
    count = len(weight)
    return _Adapted(
        weight,
        # As peft lays them out: A expert by expert, B with the expert as its last axis.
        down.view(count, -1, down.shape[1]),
        up.view(up.shape[0], -1, count).permute(2, 0, 1),
        float(cast(Any, wrapper).scaling[name]),
    )
