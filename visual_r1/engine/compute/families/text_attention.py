"""Attention of a Qwen3-VL's text layers in half precision, its rotation as one operation.

transformers' own turns queries and keys in five steps each, of which autograd undoes each; here
(Su et al., 2021) it is x cos + rotate_half(x) sin half by half, forward and back, rounded as a lean
step rounds it (see `lean_stack.Rotation`).
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from visual_r1.engine.compute.batching import split
from visual_r1.engine.compute.packing import attend


def install(stack: nn.Module) -> None:
    """Let the attention of a text stack in half precision compute as this module does."""
    for module in stack.modules():
        if type(module).__name__.endswith("TextAttention"):
            module.forward = MethodType(_forward, module)


def _forward(
    module: nn.Module,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None,
    cache: Any = None,
    **further: Any,
) -> tuple[Tensor, Tensor | None]:
    this, shape = cast(Any, module), hidden_states.shape[:-1]
    by_head = (*shape, -1, this.head_dim)
    queries: Tensor = this.q_norm(this.q_proj(hidden_states).view(by_head))
    keys: Tensor = this.k_norm(this.k_proj(hidden_states).view(by_head))
    values: Tensor = this.v_proj(hidden_states).view(by_head)
    cos, sin = (one.unsqueeze(-2) for one in position_embeddings)
    queries, keys = (turned(one, cos, sin) for one in (queries, keys))
    queries, keys, values = (one.transpose(1, 2) for one in (queries, keys, values))
    if cache is not None:
        keys, values = cache.update(keys, values, this.layer_idx)
    output, weights = attend(
        module, queries, keys, values, attention_mask, scaling=this.scaling, **further
    )
    return this.o_proj(output.reshape(*shape, -1)), weights


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, L, heads, width] by angles [B, L, 1, width]."""
    return cast(Callable[..., Tensor], _Turned.apply)(x, cos, sin)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        low, high = _halves(sin)
        return _turned(x, cos, -low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        low, high = _halves(sin)
        return _turned(gradients[0], cos, high, -low), None, None


def _turned(x: Tensor, cos: Tensor, below: Tensor, above: Tensor) -> Tensor:
    result = x * cos
    (low, high), (to_low, to_high) = _halves(x), _halves(result)
    to_low.addcmul_(high, below)
    to_high.addcmul_(low, above)
    return result


def _halves(x: Tensor) -> tuple[Tensor, ...]:
    return split(x, x.shape[-1] // 2, dim=-1)
