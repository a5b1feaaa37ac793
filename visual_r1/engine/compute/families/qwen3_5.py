"""Qwen3.5 and 3.6, dense and with experts (transformers' `qwen3_5`, `qwen3_5_moe`).

Of four layers three are gated delta-nets (`delta_net`), whose state is of one size however long the
sequence is, and one is attention, gated, with rotary positions on a quarter of each head. It
numbers its places and cuts its images as Qwen3-VL does; its vision tower gives a token one feature
(no DeepStack). A mixture has an expert besides that reads every token.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from visual_r1.engine.compute.cache import CacheBytes
from visual_r1.engine.compute.families.delta_net import GatedDeltaNet
from visual_r1.engine.compute.families.family import Family, LoraModules
from visual_r1.engine.compute.families.lean import LeanQwen3
from visual_r1.engine.compute.families.qwen3_vl import Qwen3VL, keys_and_values_bytes
from visual_r1.errors import ModelError

_RECURRENT = "linear_attn"


class Qwen35(Qwen3VL):
    """See the module."""

    name = "qwen3_5"
    title = "Qwen3.5"
    model_types = ("qwen3_5", "qwen3_5_moe")
    mixtures_of_experts = ("qwen3_5_moe",)
    lora = LoraModules(
        attention=(
            *("q_proj", "k_proj", "v_proj", "o_proj"),
            *("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"),
            *("qkv", "attn.proj"),
        ),
        mlp=("gate_proj", "up_proj", "down_proj", "linear_fc1", "linear_fc2"),
        unembed=("lm_head",),
        experts=("experts.gate_up_proj", "experts.down_proj"),
    )

    def prepare_network(self, name: str, network: nn.Module) -> None:
        """Besides the patch embedding, put our delta-nets in the place of transformers'."""
        super().prepare_network(name, network)
        stack = network.get_submodule(self.text_stack)
        named = cast("Iterator[tuple[str, nn.Module]]", stack.named_modules())
        recurrent = [module for module, _ in named if module.endswith(f".{_RECURRENT}")]
        if not recurrent:
            raise ModelError(f"the text stack of {name} has no gated delta-net.")
        for module in recurrent:
            layer = stack.get_submodule(module.removesuffix(f".{_RECURRENT}"))
            layer.register_module(_RECURRENT, GatedDeltaNet(stack.get_submodule(module)))

    def lean_step(self, network: nn.Module) -> LeanQwen3 | None:
        """None: its steps go through the modules."""
        del network
        return None

    def cache_bytes(self, text_config: Any, dtype: torch.dtype) -> CacheBytes:
        """Keys and values of the layers with attention; of each other layer its state."""
        kinds = list(text_config.layer_types)
        heads, key_heads = text_config.linear_num_value_heads, text_config.linear_num_key_heads
        key_width, value_width = text_config.linear_key_head_dim, text_config.linear_value_head_dim
        channels = 2 * key_heads * key_width + heads * value_width
        memory = (
            heads * key_width * value_width * torch.promote_types(dtype, torch.float32).itemsize
        )
        tail = (text_config.linear_conv_kernel_dim - 1) * channels * dtype.itemsize
        return CacheBytes(
            per_place=kinds.count("full_attention") * keys_and_values_bytes(text_config, dtype),
            per_sequence=kinds.count("linear_attention") * (memory + tail),
        )

    def image_features(self, tower: Callable[..., Any], patches: Tensor, grids: Tensor) -> Tensor:
        """[1, tokens, width]: the tokens' embeddings alone."""
        return tower(patches, grid_thw=grids).pooler_output[None]

    def with_images(
        self, embeddings: Tensor, is_image: Tensor, features: Tensor
    ) -> tuple[Tensor, Mapping[str, Any]]:
        """In the places of the image tokens' embeddings."""
        return embeddings.masked_scatter(is_image[..., None], features[0]), {}


FAMILY: Family = Qwen35()
