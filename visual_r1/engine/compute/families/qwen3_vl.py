"""Qwen3-VL, dense and with experts (Bai et al., 2025; transformers' `qwen3_vl`, `qwen3_vl_moe`).

Positions have three axes (time, height, width), whose rotary frequencies are interleaved: text
counts all three up together, an image of h x w tokens keeps time and counts rows and columns from
where the text stood, and the text goes on at start + max(h, w).

The vision tower merges 2 x 2 patches into a token. Besides the tokens' embeddings it gives
features of D of its own layers (DeepStack), which are added to the image's places behind the first
D layers of the text stack.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_r1.engine.compute import residual, rms_norm
from visual_r1.engine.compute.batching import of_array
from visual_r1.engine.compute.cache import CacheBytes
from visual_r1.engine.compute.families import text_attention, tower_attention
from visual_r1.engine.compute.families.family import (
    Family,
    ImagePreparer,
    LoraModules,
    PreparedImage,
)
from visual_r1.engine.compute.families.lean import LeanQwen3
from visual_r1.errors import ModelError


class PatchProjection(nn.Module):
    """The vision tower's patch embedding as a matrix product.

    The checkpoint holds it as a Conv3d whose stride is its kernel, applied to patches that are cut
    already. A product gives the same, many times faster, and row by row: a patch's embedding then
    does not depend on how many patches are computed with it.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        """Take over the convolution's weights [out, channels, time, height, width]."""
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if convolution.bias is not None:
            self.bias = nn.Parameter(convolution.bias.detach(), requires_grad=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches [n, channels * time * height * width] to embeddings [n, width]."""
        return nn.functional.linear(patches.to(self.weight.dtype), self.weight, self.bias)


def keys_and_values_bytes(text_config: Any, dtype: torch.dtype) -> int:
    """Of one place in one layer."""
    heads, width = int(text_config.num_key_value_heads), int(text_config.head_dim)
    return 2 * heads * width * dtype.itemsize


class Qwen3VL(Family):
    """See the module."""

    name = "qwen3_vl"
    title = "Qwen3-VL"
    model_types = ("qwen3_vl", "qwen3_vl_moe")
    mixtures_of_experts = ("qwen3_vl_moe",)
    text_stack = "model.language_model"
    vision_tower = "model.visual"
    # Text layers first, then the vision tower's blocks and mergers.
    lora = LoraModules(
        attention=("q_proj", "k_proj", "v_proj", "o_proj", "qkv", "attn.proj"),
        mlp=("gate_proj", "up_proj", "down_proj", "linear_fc1", "linear_fc2"),
        unembed=("lm_head",),
        experts=("experts.gate_up_proj", "experts.down_proj"),
    )

    def prepare_network(self, name: str, network: nn.Module) -> None:
        """Put a matrix product in the place of the patch embedding's convolution, our attention in
        the tower, and our norms in the text stack; over weights in half precision also our
        attention there, and a stream in float32."""
        tower = network.get_submodule(self.vision_tower)
        convolution = tower.get_submodule("patch_embed.proj")
        if not isinstance(convolution, nn.Conv3d):
            raise ModelError(f"the vision tower of {name} has no Conv3d patch embedding.")
        tower.register_module("patch_embed", PatchProjection(convolution))
        tower_attention.install(tower)
        rms_norm.install(network.get_submodule(self.text_stack))
        if cast(Any, network).dtype != torch.float32:
            text_attention.install(network.get_submodule(self.text_stack))
            residual.install(network.get_submodule(self.text_stack))

    def lean_step(self, network: nn.Module) -> LeanQwen3 | None:
        """Of all that are built as the published ones are."""
        try:
            return LeanQwen3(network, self.text_stack, "lm_head")
        except (AttributeError, KeyError):
            return None

    def image_preparer(self, path: str, config: Any) -> ImagePreparer:
        """Pillow's half of Qwen2-VL's image processor, which Qwen3-VL shares."""
        try:
            processor = cast(Any, Qwen2VLImageProcessorPil).from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ModelError(f"no image processor could be read from {path}: {error}") from error
        merge = int(config.vision_config.spatial_merge_size)

        def prepare(digest: bytes, image: Image.Image) -> PreparedImage:
            prepared = processor(images=[image], return_tensors="np")
            patches = of_array(cast(np.ndarray, prepared["pixel_values"]).astype(np.float32))
            _, down, across = (int(n) for n in prepared["image_grid_thw"][0])
            return PreparedImage(digest, patches, (down, across), (down // merge, across // merge))

        return prepare

    def cache_bytes(self, text_config: Any, dtype: torch.dtype) -> CacheBytes:
        """A key and a value a place, layer and key-value head."""
        layers = int(text_config.num_hidden_layers)
        return CacheBytes(layers * keys_and_values_bytes(text_config, dtype))

    def text_positions(self, start: int, count: int) -> np.ndarray:
        """The same count on all three axes."""
        return np.tile(np.arange(start, start + count), (3, 1))

    def image_positions(self, start: int, image: PreparedImage) -> tuple[np.ndarray, int]:
        """Time stands still; rows and columns count from where the text stood."""
        down, across = image.token_grid
        rows, columns = np.divmod(np.arange(down * across), across)
        positions = start + np.stack([np.zeros_like(rows), rows, columns])
        return positions, start + max(down, across)

    def image_features(self, tower: Callable[..., Any], patches: Tensor, grids: Tensor) -> Tensor:
        """[1 + D, tokens, width]: the tokens' embeddings, and D layers of DeepStack."""
        output = tower(patches, grid_thw=grids)
        return torch.stack([output.pooler_output, *output.deepstack_features])

    def with_images(
        self, embeddings: Tensor, is_image: Tensor, features: Tensor
    ) -> tuple[Tensor, Mapping[str, Any]]:
        """The first text layers add DeepStack's features themselves, where the mask tells them."""
        embeddings = embeddings.masked_scatter(is_image[..., None], features[0])
        deepstack = {"visual_pos_masks": is_image, "deepstack_visual_embeds": list(features[1:])}
        return embeddings, deepstack


FAMILY: Family = Qwen3VL()
