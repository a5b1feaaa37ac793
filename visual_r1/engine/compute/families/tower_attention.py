"""Attention of a vision tower over all images of a run at once.

transformers' own goes image by image, a call and three cuts for each; here images of one size that
follow each other are one call, and on a card in half precision all images are (by flash attention,
Dao, 2023, as torch has it). On a CPU an image comes out the same to the bit, and so do its
gradients.
"""

from collections.abc import Callable
from itertools import groupby
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen3_vl import modeling_qwen3_vl

from visual_r1.engine.compute.batching import integers, split


def install(tower: nn.Module) -> None:
    """Let the attention of a tower that is built as Qwen3-VL's compute as this module does."""
    for module in tower.modules():
        if type(module).__name__.endswith("VisionAttention"):
            module.forward = MethodType(_forward, module)


def _forward(
    module: nn.Module,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> Tensor:
    """Of N patches [N, width]; `cu_seqlens` [images + 1] says where each image begins and ends."""
    this, rotate = cast(Any, module), cast(Any, modeling_qwen3_vl).apply_rotary_pos_emb_vision
    qkv: Tensor = this.qkv(hidden_states)
    queries, keys, values = qkv.view(len(qkv), 3, this.num_heads, -1).unbind(1)
    queries, keys = cast(Callable[..., tuple[Tensor, Tensor]], rotate)(
        queries, keys, *position_embeddings
    )
    if queries.is_cuda and _has_flash(queries):
        attended = _by_flash(queries, keys, values, cu_seqlens, this.scaling)
        return this.proj(attended.flatten(1))
    runs = [(size, len(list(equal))) for size, equal in groupby(integers(cu_seqlens.diff()))]
    stretches = [size * images for size, images in runs]
    found: list[Tensor] = []
    for (size, images), *vectors in zip(
        runs, *(split(one, stretches) for one in (queries, keys, values)), strict=True
    ):
        by_image = [one.view(images, size, *one.shape[1:]).transpose(1, 2) for one in vectors]
        output = functional.scaled_dot_product_attention(*by_image, scale=this.scaling)
        found.append(output.transpose(1, 2).reshape(images * size, -1))
    return this.proj(torch.cat(found))


def _has_flash(queries: Tensor) -> bool:
    """Whether flash attention has a kernel: none in float32, on cards before Ampere, and for heads
    whose width is no multiple of 8."""
    fits = queries.dtype != torch.float32 and queries.shape[-1] % 8 == 0
    return fits and torch.cuda.get_device_capability(queries.device) >= (8, 0)


def _by_flash(queries: Tensor, keys: Tensor, values: Tensor, ends: Tensor, scale: float) -> Tensor:
    """[N, heads, width] each, images of all sizes in one call."""
    ends = ends.to(torch.int32)
    longest = int(ends.diff().max())
    operators = cast(Any, torch.ops.aten)
    attended, *_ = operators._flash_attention_forward(
        queries, keys, values, ends, ends, longest, longest, 0.0, False, False, scale=scale
    )
    return attended
