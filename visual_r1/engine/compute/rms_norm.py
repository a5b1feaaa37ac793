"""RMSNorm (Zhang & Sennrich, 2019) with its gradient as one operation: y = w · x / rms(x).

Forward it does what transformers' modules do, to the bit. Back, autograd would send gradients
through each of its steps and keep what each of them made; here x and 1 / rms(x) are kept:

    dx = r · (g w − n · mean(g w · n)),        r = 1 / rms(x), n = r · x.

In half precision torch's own kernels do that. The result is rounded once there, where the modules
round before the weight too, and is of the weight's type, whatever x is (see `residual`).
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
        numbers = inputs.float()
        scale = numbers.pow(2).mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(inputs, scale, weight)
        return weight * (numbers * scale).to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of the inputs: the base's own weights are not trained."""
        inputs, scale, weight = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        normed = inputs.float() * scale
        given = gradients[0].float() * weight.float()
        mean = (given * normed).mean(-1, keepdim=True).neg_()
        return given.addcmul_(normed, mean).mul_(scale).to(inputs.dtype), None, None


def install(stack: nn.Module) -> None:
    """Let the norms of a text stack compute as this module does.

    They must be of the form that is described above, with a weight and `variance_epsilon`.
    """
    for module in stack.modules():
        if type(module).__name__.endswith("TextRMSNorm"):
            module.forward = MethodType(_forward, module)


def _forward(module: nn.Module, hidden_states: Tensor) -> Tensor:
    this = cast(Any, module)
    if this.weight.dtype != torch.float32:
        weight = this.weight.to(hidden_states.dtype)
        even = functional.rms_norm(hidden_states, weight.shape, weight, this.variance_epsilon)
        return even.to(this.weight.dtype)
    apply = cast(Callable[..., Tensor], _RmsNorm.apply)
    return apply(hidden_states, this.weight, this.variance_epsilon)
