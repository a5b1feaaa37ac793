"""A residual stream in float32 over weights in half precision.

Each layer adds to the stream, and in bfloat16 each addition would round all of it to eight bits:
sampler and learner, which add in other orders, would drift apart layer by layer. So embeddings
enter as float32, norms give what products read in the weights' own type, and what layers give is
added unrounded. The last product, to logits, is not rounded either (`low_rank.logits`).
"""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn


def install(stack: nn.Module) -> None:
    """Let the norms and the rotary angles of a text stack be of the weights' type, whatever the
    stream's is."""
    dtype = cast(Tensor, cast(Any, stack).embed_tokens.weight).dtype
    for module in stack.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.register_forward_hook(_as_weight)
    rotary: Any = stack.rotary_emb
    angles: Callable[..., tuple[Tensor, Tensor]] = rotary.forward

    def rounded(stream: Tensor, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        cos, sin = angles(stream, *given, **named)
        return cos.to(dtype), sin.to(dtype)

    rotary.forward = rounded


def _as_weight(module: nn.Module, _: object, output: Tensor) -> Tensor:
    return output.to(cast(Tensor, module.weight).dtype)
