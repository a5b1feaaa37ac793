"""Checkpoints of random weights: the shipped model's tokenizer and images, another network."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from visual_r1.models import TINY_GEOMETRY, model_path

EXPERTS = 4
"""Of each layer of a mixture; two of them read a token."""


def shipped_config() -> dict[str, Any]:
    """The shipped model's."""
    return json.loads((Path(model_path(TINY_GEOMETRY)) / "config.json").read_text())


def mixture_config() -> Qwen3VLMoeConfig:
    """A Qwen3-VL with experts, of the shipped model's sizes."""
    config = shipped_config()
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    text = config["text_config"] | experts | {"model_type": "qwen3_vl_moe_text"}
    vision = config["vision_config"] | {"model_type": "qwen3_vl_moe_vision"}
    return Qwen3VLMoeConfig(text_config=text, vision_config=vision, image_token_id=518)


def deep(folder: Path) -> Path:
    """A Qwen3-VL of 28 narrow layers, its logits about as peaked as those of a trained one."""
    config = shipped_config()
    config["text_config"] |= {
        "hidden_size": 64, "num_hidden_layers": 28, "intermediate_size": 96,
    }  # fmt: skip
    config["vision_config"]["out_hidden_size"] = 64
    torch.manual_seed(0)
    network = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config))
    with torch.no_grad():
        network.model.language_model.norm.weight.fill_(14.0)
    return folder_of(folder, network)


def delta_net_config() -> Any:
    """A Qwen3.5 with experts: linear attention in three layers of four, its q, k and v in one
    matrix."""
    text = {
        "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16,
        "num_key_value_heads": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "vocab_size": 99,
        "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "num_experts": 4,
        "num_experts_per_tok": 2,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64}
    return AutoConfig.for_model("qwen3_5_moe", text_config=text, vision_config=vision)


def folder_of(folder: Path, network: Any) -> Path:
    """The shipped model's tokenizer and processor beside other weights."""
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(model_path(TINY_GEOMETRY), folder, ignore=weights)
    network.save_pretrained(folder)
    return folder


def qwen3_5(folder: Path, **text: Any) -> Path:
    """A Qwen3.5 of four layers, the second of them with attention; sizes that tell axes apart."""
    given = _shared()
    config = Qwen3_5Config(
        text_config=_qwen3_5_text(intermediate_size=96, **text),
        vision_config=given.pop("vision_config") | {"model_type": "qwen3_5_vision"},
        **given,
    )
    torch.manual_seed(5)
    return folder_of(folder, _scattered(Qwen3_5ForConditionalGeneration(config)))


def qwen3_5_moe(folder: Path, **text: Any) -> Path:
    """The same with experts."""
    given = _shared()
    experts = {
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48,
    }
    config = Qwen3_5MoeConfig(
        text_config=_qwen3_5_text(**experts, **text),
        vision_config=given.pop("vision_config") | {"model_type": "qwen3_5_moe_vision"},
        **given,
    )
    torch.manual_seed(5)
    return folder_of(folder, _scattered(Qwen3_5MoeForConditionalGeneration(config)))


def qwen3_vl_moe(folder: Path, **text: Any) -> Path:
    """The shipped model's sizes, with experts."""
    config = shipped_config()
    experts = {
        "model_type": "qwen3_vl_moe_text",
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    vision = {**config.pop("vision_config"), "model_type": "qwen3_vl_moe_vision"}
    text = {**config.pop("text_config"), **experts, **text}
    kept = {key: value for key, value in config.items() if key.endswith(("_id", "embeddings"))}
    torch.manual_seed(5)
    network = Qwen3VLMoeForConditionalGeneration(
        Qwen3VLMoeConfig(text_config=text, vision_config=vision, **kept)
    )
    return folder_of(folder, _scattered(network))


def _shared() -> dict[str, Any]:
    """What Qwen3.5 takes over from the shipped model: ids of tokens, and the vision tower."""
    config = shipped_config()
    vision = config["vision_config"]
    del vision["deepstack_visual_indexes"]
    vision["out_hidden_size"] = 64
    kept = {key: value for key, value in config.items() if key.endswith(("_id", "embeddings"))}
    return {**kept, "vision_config": vision}


def _qwen3_5_text(**changes: Any) -> dict[str, Any]:
    shipped = shipped_config()["text_config"]
    kept = ("vocab_size", "max_position_embeddings", "pad_token_id", "eos_token_id", "bos_token_id")
    return {
        **{key: shipped[key] for key in kept},
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention", *["linear_attention"] * 2],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 24,
        "tie_word_embeddings": True,
        **changes,
    }


def _scattered(network: Any) -> Any:
    """The network with weights of a size at which its parts differ, and states that remember."""
    generator = torch.Generator().manual_seed(3)
    for name, values in network.named_parameters():
        if name.endswith("A_log"):
            # From forgetting within a few places to hardly at all.
            values.data.copy_(torch.linspace(-6, -1, len(values)))
        else:
            values.data.add_(torch.randn(values.shape, generator=generator) * 0.05)
    return network
