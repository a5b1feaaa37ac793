"""Models of a true shape with random weights: what they cost is what the real ones cost.

    python -m beside.shapes SHAPE FOLDER --device cuda [--layers N]

The network is made on the device itself, in bfloat16 there and in float32 on the CPU, and saved
with the shipped model's tokenizer beside it: which tokens a prompt holds changes no cost.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visual_r1.models import TINY_GEOMETRY, model_path

WRITERS = 4

FINAL_NORM = 5.0
"""Weight of the last norm: logits about as peaked as those of a trained model, not near uniform."""


@dataclass(frozen=True)
class Shape:
    """What differs from one model to another."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_feed_forward: int
    vision_heads: int
    deepstack: tuple[int, ...]
    patch: int = 16
    experts: int = 0
    experts_per_token: int = 0
    expert_feed_forward: int = 0
    tied: bool = True


SHAPES = {
    # Of the shipped model's images, and sixty million weights.
    "60m": Shape(640, 9, 10, 5, 64, 1920, 768, 384, 6, 1024, 6, (1,), patch=12),
    "2b": Shape(2048, 28, 16, 8, 128, 6144, 151_936, 1024, 24, 4096, 16, (5, 11, 17)),
    "8b": Shape(
        4096, 36, 32, 8, 128, 12_288, 151_936, 1152, 27, 4304, 16, (8, 16, 24), tied=False
    ),
    "30b-a3b": Shape(
        2048, 48, 32, 4, 128, 6144, 151_936, 1152, 27, 4304, 16, (8, 16, 24),
        experts=128, experts_per_token=8, expert_feed_forward=768, tied=False,
    ),
    # To try a benchmark of a card on a processor.
    "toy": Shape(128, 3, 4, 2, 32, 320, 2048, 96, 3, 256, 4, (0, 1)),
    "toy-a3b": Shape(
        128, 3, 4, 2, 32, 320, 2048, 96, 3, 256, 4, (0, 1),
        experts=8, experts_per_token=2, expert_feed_forward=64, tied=False,
    ),
}  # fmt: skip


def config_of(shape: Shape, layers: int | None = None) -> Any:
    """The transformers configuration; `layers` text layers in place of the shape's."""
    from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

    shipped = json.loads((Path(model_path(TINY_GEOMETRY)) / "config.json").read_text())
    third = shape.head_dim // 2 // 3
    text = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": layers or shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.feed_forward,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "pad_token_id": shipped["text_config"]["pad_token_id"],
        "eos_token_id": shipped["text_config"]["eos_token_id"],
        "bos_token_id": None,
        "tie_word_embeddings": shape.tied,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_interleaved": True,
            "mrope_section": [shape.head_dim // 2 - 2 * third, third, third],
        },
    }
    if shape.experts:
        text |= {
            "num_experts": shape.experts,
            "num_experts_per_tok": shape.experts_per_token,
            "moe_intermediate_size": shape.expert_feed_forward,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    vision = {
        "hidden_size": shape.vision_hidden,
        "depth": shape.vision_layers,
        "intermediate_size": shape.vision_feed_forward,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.hidden,
        "deepstack_visual_indexes": list(shape.deepstack),
        "patch_size": shape.patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "num_position_embeddings": 2304,
    }
    ids = {name: shipped[name] for name in shipped if name.endswith("_token_id")}
    kind = Qwen3VLMoeConfig if shape.experts else Qwen3VLConfig
    return kind(text_config=text, vision_config=vision, tie_word_embeddings=shape.tied, **ids)


def save(shape: Shape, folder: Path, device: str, layers: int | None = None) -> dict[str, Any]:
    """Make the network on `device` and save it; how many weights it has, and seconds."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

    began = time.perf_counter()
    kind = Qwen3VLMoeForConditionalGeneration if shape.experts else Qwen3VLForConditionalGeneration
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            network = kind._from_config(config_of(shape, layers), attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        network.model.language_model.norm.weight.fill_(FINAL_NORM)
    made = time.perf_counter() - began
    with _writing_beside(device):
        network.save_pretrained(folder, max_shard_size="5GB")
    _copy_tokenizer(folder, shape.patch)
    weights = sum(one.numel() for one in network.parameters())
    saved = time.perf_counter() - began - made
    return {"weights": weights, "layers": layers or shape.layers, "made_s": made, "saved_s": saved}


@contextmanager
def _writing_beside(device: str) -> Generator[None]:
    """Of a model on a card the files are written by children, some at a time: safetensors holds the
    interpreter's lock, and a card's minutes are few."""
    if device != "cuda":
        yield
        return
    from safetensors.torch import save_file
    from transformers import modeling_utils

    children: list[int] = []

    def wait_for_one() -> None:
        _, status = os.waitpid(children.pop(0), 0)
        if status:
            raise OSError("a file of the model could not be written")

    def write(tensors: dict[str, Any], name: str, metadata: Any = None) -> None:
        held = {one: values.cpu() for one, values in tensors.items()}
        if len(children) == WRITERS:
            wait_for_one()
        if child := os.fork():
            children.append(child)
            return
        status = 1
        try:  # Nothing of the card is touched here, and nothing of it is put away.
            save_file(held, name, metadata=metadata)
            status = 0
        finally:
            os._exit(status)

    own: Any = modeling_utils
    kept, own.safe_save_file = own.safe_save_file, write
    try:
        yield
        while children:
            wait_for_one()
    finally:
        own.safe_save_file = kept


def bytes_of(shape: Shape, layers: int, width: int) -> int:
    """About how much of a disk it takes, at `width` bytes a weight."""
    attention = 2 * shape.hidden * (shape.heads + shape.kv_heads) * shape.head_dim
    inner = shape.experts * shape.expert_feed_forward if shape.experts else shape.feed_forward
    heads = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    tower = (
        shape.vision_layers
        * shape.vision_hidden
        * (4 * shape.vision_hidden + 2 * shape.vision_feed_forward)
    )
    return width * (layers * (attention + 3 * shape.hidden * inner) + heads + 2 * tower)


def _copy_tokenizer(folder: Path, patch: int) -> None:
    shipped = Path(model_path(TINY_GEOMETRY))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(shipped / name, folder / name)
    images = json.loads((shipped / "preprocessor_config.json").read_text())
    if patch == 16:  # Qwen's own limits
        images |= {"patch_size": 16, "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int)
    chosen = parser.parse_args()
    done = save(SHAPES[chosen.shape], chosen.folder, chosen.device, chosen.layers)
    print(json.dumps(done), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
