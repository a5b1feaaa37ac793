"""The base model in memory: any Qwen3-VL checkpoint from a folder or the hub, never unpickled."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging

from visual_r1.errors import ConfigError, ModelError
from visual_r1.models import model_path
from visual_r1.models.processor import Processor, load_processor

SUPPORTED_MODEL_TYPES = ("qwen3_vl", "qwen3_vl_moe")


class TextOutput(Protocol):
    """What the language model returns."""

    last_hidden_state: Tensor


class VisionOutput(Protocol):
    """What the vision tower returns: merged patches and the features for the first text layers."""

    pooler_output: Tensor
    deepstack_features: list[Tensor]


@dataclass(frozen=True)
class BaseModel:
    """A loaded checkpoint and the facts about it that the engine needs."""

    name: str
    path: str
    network: nn.Module
    processor: Processor
    device: torch.device
    dtype: torch.dtype
    context_length: int
    vocabulary_size: int
    merge_size: int
    is_mixture_of_experts: bool
    cache_bytes_per_token: int
    """Keys and values of one place in all layers."""

    @property
    def language_model(self) -> Callable[..., TextOutput]:
        """The text stack: embeddings to final hidden states."""
        return cast(Callable[..., TextOutput], self.network.get_submodule("model.language_model"))

    @property
    def vision_tower(self) -> Callable[..., VisionOutput]:
        """The vision stack: patches to features in the text model's width."""
        return cast(Callable[..., VisionOutput], self.network.get_submodule("model.visual"))

    @property
    def embed(self) -> Callable[[Tensor], Tensor]:
        """Token ids [...] to embeddings [..., hidden]."""
        embedding = self.network.get_submodule("model.language_model.embed_tokens")
        return cast(Callable[[Tensor], Tensor], embedding)

    @property
    def unembed(self) -> Callable[[Tensor], Tensor]:
        """Hidden states [..., hidden] to logits [..., vocabulary]."""
        return cast(Callable[[Tensor], Tensor], self.network.get_submodule("lm_head"))


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


def load_base_model(name: str, device: str = "auto") -> BaseModel:
    """Load `name` (the shipped model's name, a folder or a hub id) for inference.

    CPU computes in float32, CUDA in bfloat16. Raises `ModelError` when there is no such model, when
    it is not a Qwen3-VL, or when its weights are not safetensors.
    """
    target = pick_device(device)
    dtype = torch.bfloat16 if target.type == "cuda" else torch.float32
    path = model_path(name)
    network = _load_network(name, path, dtype).to(target).eval()
    network.requires_grad_(False)
    if target.type == "cuda":
        # Takes effect in training mode alone: activations are computed again in the backward pass.
        settings: dict[str, Any] = {"use_reentrant": False}
        cast(Any, network).activation_checkpointing_enable(settings)
    visual = network.get_submodule("model.visual")
    projection = visual.get_submodule("patch_embed.proj")
    if not isinstance(projection, nn.Conv3d):
        raise ModelError(f"the vision tower of {name} has no Conv3d patch embedding.")
    visual.register_module("patch_embed", PatchProjection(projection))
    config = cast(Any, network).config
    text = config.get_text_config()
    heads, width = int(text.num_key_value_heads), int(text.head_dim)
    return BaseModel(
        name=name,
        path=path,
        network=network,
        processor=load_processor(name),
        device=target,
        dtype=dtype,
        context_length=int(text.max_position_embeddings),
        vocabulary_size=int(text.vocab_size),
        merge_size=int(config.vision_config.spatial_merge_size),
        is_mixture_of_experts=config.model_type == "qwen3_vl_moe",
        cache_bytes_per_token=2 * int(text.num_hidden_layers) * heads * width * dtype.itemsize,
    )


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; also `cpu`, `cuda` and `cuda:N`."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"device {device!r} is unknown; the engine runs on auto, cpu or cuda."
        ) from error
    if target.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not served; the engine runs on auto, cpu or cuda.")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but torch finds no CUDA; use cpu.")
    return target


def _load_network(name: str, path: str, dtype: torch.dtype) -> nn.Module:
    """Read the checkpoint; only safetensors are accepted, and no code of the checkpoint is run."""
    try:
        config = cast(Any, AutoConfig).from_pretrained(path, trust_remote_code=False)
        if config.model_type not in SUPPORTED_MODEL_TYPES:
            raise ModelError(
                f"model {name} is of type {config.model_type}; the engine serves Qwen3-VL "
                f"checkpoints ({', '.join(SUPPORTED_MODEL_TYPES)})."
            )
        with warnings.catch_warnings():
            # transformers warns of its own deprecations while it loads; none is the user's to mend.
            warnings.simplefilter("ignore")
            logging.disable_progress_bar()
            network = cast(Any, AutoModelForImageTextToText).from_pretrained(
                path,
                dtype=dtype,
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"could not load the model {name} from {_place(path)}: "
            f"{str(error).strip().splitlines()[0].rstrip('.')}. "
            "Name a Qwen3-VL folder with safetensors weights, or a hub id that can be reached."
        ) from error
    return cast(nn.Module, network)


def _place(path: str) -> str:
    return f"the folder {path}" if Path(path).is_dir() else f"the hub id {path}"
