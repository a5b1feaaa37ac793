"""A linear layer with a LoRA on it, as one operation: y = W x + b + s · B (A x).

peft's own forward takes the update apart: it scales and adds tensors as wide as the output, forward
and back, and over a base in bfloat16 it takes the input to float32 first. Here the update is added
within the products. The masters A and B are float32; the products are in the type of the base, and
their gradients are summed in float32 (mixed precision as in Micikevicius et al., 2018).
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


def install(network: nn.Module) -> None:
    """Let all of peft's linear layers in the network compute as this module does."""
    for layer in network.modules():
        if isinstance(layer, Linear) and type(layer.get_base_layer()) is nn.Linear:
            layer.forward = MethodType(_forward, layer)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices, float32, whatever they are."""
    if a.dtype == torch.float32:
        return a @ b
    if a.device.type == "cuda":
        # Summed and given back in float32 by the card itself; the CPU's kernel has no such way.
        return cast(Any, torch).mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def logits(head: nn.Module, hidden: Tensor) -> Tensor:
    """Logits [n, vocabulary], float32, of hidden states [n, width] by the network's last layer.

    Of hidden states in half precision they are not rounded to it: at a logit of 20 in bfloat16
    that would be a sixteenth of a nat. A head that computed so set a learner apart from its sampler
    until it was taken to float32 (MiniMax-M1, 2025).
    """
    if hidden.dtype == torch.float32:
        return head(hidden)
    layer = cast(Any, head)
    base = cast(nn.Linear, layer.get_base_layer() if isinstance(head, Linear) else layer)
    low = _active(head) if isinstance(head, Linear) else None
    apply = cast(Callable[..., Tensor], _WideLinear.apply)
    return apply(hidden, base.weight, *(low or (None, None, 0.0)))


class _WideLinear(torch.autograd.Function):
    """A product of half precision that comes out in float32, perhaps with a LoRA on it."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        down: Tensor | None,
        up: Tensor | None,
        scale: float,
    ) -> Tensor:
        output = product(rows, weight.T)
        inner: Tensor | None = None
        if down is not None and up is not None:
            down, up = down.to(rows.dtype), up.to(rows.dtype)
            inner = rows @ down.T
            # In place and in float32: a product of its own would be as large as the logits.
            output.addmm_(inner.float(), up.T.float(), alpha=scale)
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of the rows, A and B."""
        rows, inner, weight, down, up = cast("tuple[Any, ...]", ctx.saved_tensors)
        gradient = gradients[0].to(rows.dtype)
        of_rows: Tensor = gradient @ weight
        if down is None:
            return of_rows, None, None, None, None
        of_inner = (gradient @ up).mul_(ctx.scale)
        of_down = product(of_inner.T, rows)
        of_up = product(gradient.T, inner).mul_(ctx.scale)
        return of_rows.addmm_(of_inner, down), None, of_down, of_up, None


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        """Inputs [..., in] to outputs [..., out]; `down` is A [r, in], `up` is B [out, r]."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        down, up = down.to(rows.dtype), up.to(rows.dtype)
        inner = rows @ down.T
        output = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        output.addmm_(inner, up.T, alpha=scale)
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale = scale
        return output.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of inputs, A and B; the base's own weights are not trained."""
        rows, inner, weight, down, up = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        (given,) = gradients
        gradient = given.reshape(-1, given.shape[-1])
        of_inner = (gradient @ up).mul_(ctx.scale)
        of_inputs: Tensor | None = None
        if ctx.needs_input_grad[0]:
            of_inputs = (gradient @ weight).addmm_(of_inner, down)
            of_inputs = of_inputs.view(*given.shape[:-1], -1)
        of_down = product(of_inner.T, rows)
        of_up = product(gradient.T, inner).mul_(ctx.scale)
        return of_inputs, None, None, of_down, of_up, None


def _forward(layer: Linear, inputs: Tensor) -> Tensor:
    base = cast(nn.Linear, layer.get_base_layer())
    low = _active(layer)
    if low is None:
        return base(inputs)
    apply = cast(Callable[..., Tensor], _LowRankLinear.apply)
    return apply(inputs, base.weight, base.bias, *low)


def _active(layer: Linear) -> tuple[Tensor, Tensor, float] | None:
    """A, B and the scale of the LoRA that is active on a layer, if one is."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or not active:
        return None
    (name,) = active
    down, up = (cast(nn.Linear, side[name]).weight for side in (layer.lora_A, layer.lora_B))
    return down, up, cast(Any, layer).scaling[name]
