"""Log-probabilities over a large vocabulary without its softmax in float32.

What a softmax needs besides the logits is computed slice by slice, forward and back, so no more of
it is ever held than a slice.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from visual_r1.engine.compute.batching import split

SLICE = 2**25
"""Numbers of a slice: 128 MiB in float32."""


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        norms: list[Tensor] = []
        found: list[Tensor] = []
        at_once = _rows_at_once(logits)
        for rows, wanted in zip(split(logits, at_once), split(targets, at_once), strict=True):
            numbers = rows.float()
            norm = torch.logsumexp(numbers, dim=-1, keepdim=True)
            found.append(numbers.gather(-1, wanted) - norm)
            norms.append(norm)
        ctx.save_for_backward(logits, targets, torch.cat(norms))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """d logp_t / d logits = onehot(t) − softmax."""
        logits, targets, norms = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        result = torch.empty_like(logits)
        at_once = _rows_at_once(logits)
        parts = (split(part, at_once) for part in (logits, targets, norms, gradients[0], result))
        for rows, wanted, norm, given, into in zip(*parts, strict=True):
            slope = (rows - norm).exp_().mul_(-given.sum(-1, keepdim=True))
            slope.scatter_add_(-1, wanted, given)
            into.copy_(slope)
        return result, None


def _rows_at_once(logits: Tensor) -> int:
    return max(1, SLICE // logits.shape[1])


def logprobs_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities, float32 [rows, K], of `targets` int64 [rows, K] by logits [rows, V]."""
    apply = cast(Callable[..., Tensor], _TargetLogprobs.apply)
    return apply(logits, targets)
