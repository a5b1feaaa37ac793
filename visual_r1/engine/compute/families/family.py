"""What a family of models has to tell the engine; the rest of compute is the same for all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visual_r1.engine.compute.cache import CacheBytes
from visual_r1.engine.compute.families.lean import LeanQwen3


@dataclass(frozen=True)
class PreparedImage:
    """An image as patches, with its place in the token sequence."""

    digest: bytes
    """Of the image as it came: what is shown twice is computed once."""
    patches: Tensor
    """float32 [grid_height * grid_width, values], on the CPU."""
    grid: tuple[int, int]
    """Patches (down, across)."""
    token_grid: tuple[int, int]
    """Tokens (down, across), after the vision tower has merged patches."""

    @property
    def tokens(self) -> int:
        """Positions it takes in the sequence."""
        down, across = self.token_grid
        return down * across


ImagePreparer: TypeAlias = Callable[[bytes, Image.Image], PreparedImage]
"""Digest and RGB pixels to patches. Raises `ValueError` for an image that the model cannot see."""


@dataclass(frozen=True)
class LoraModules:
    """Endings of the names of the linear modules that a LoRA can train, as peft matches them."""

    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    unembed: tuple[str, ...]
    experts: tuple[str, ...] = ()
    """Endings of the names of parameters that hold a matrix for each expert, in a mixture of them;
    they are trained with the MLPs."""


class Family(Protocol):
    """A family of models: checkpoints that differ in size alone.

    To serve one, put a module beside this one whose `FAMILY` gives all that stands below, and the
    format of its prompts into `visual_r1.models.families`. It is taken for granted that
    transformers loads the checkpoint as an `AutoModelForImageTextToText`, whose text stack takes
    `inputs_embeds`, `position_ids`, `attention_mask` and a cache, that text goes on by
    one position a token on every axis, and that no layer looks ahead: a family whose image tokens
    see each other (Gemma 3), or whose layers see a window, needs masks that are not made here.

    What a layer keeps of the places before is its own to say. Attention calls the cache's `update`
    with keys and values, and gets those it is to look at. A layer that keeps something else calls
    `state` and `keep_state` (`compute.cache.StateCache`) with tensors of its choice, one row a
    sequence and of one size; they are shared by the answers to a prompt, take gradients back to it,
    and follow a sequence through decoding. Its pass over padded prompts must leave each row's state
    as it is at the row's own length: padding that attention never looks at goes into a state unless
    the layer keeps it out.

    Results must not depend on what is computed together: see `batching` for what a CPU needs for
    that, and let `prepare_network` replace a module that does not give it. The tests of a family
    are those of `tests/unit/engine` whose fixture `compute` names it.
    """

    name: ClassVar[str]
    """As Tinker's `get_info` calls the architecture."""
    title: ClassVar[str]
    """As a person calls the family."""
    model_types: ClassVar[tuple[str, ...]]
    """The `model_type` of the checkpoints' config.json."""
    mixtures_of_experts: ClassVar[tuple[str, ...]]
    """Those of them whose MLPs are experts, all of a layer in one parameter."""
    text_stack: ClassVar[str]
    """Name of the module from embeddings to final hidden states."""
    vision_tower: ClassVar[str]
    """Name of the module from patches to visual features."""
    lora: ClassVar[LoraModules]
    """What Tinker's `train_attn`, `train_mlp` and `train_unembed` stand for."""

    def prepare_network(self, name: str, network: nn.Module) -> None:
        """Change the loaded network of the model `name` where it has to be changed.

        Raises `ModelError` when it is not built as the family is.
        """
        ...

    def lean_step(self, network: nn.Module) -> LeanQwen3 | None:
        """A decode step without module calls, where the family has one for this network.

        What it takes from the network it may lay side by side in memory. Without one, steps go
        through the text stack as everything else does.
        """
        ...

    def image_preparer(self, path: str, config: Any) -> ImagePreparer:
        """The image arithmetic of a checkpoint, from its folder or hub id and its configuration.

        Raises `ModelError` when the checkpoint has no settings for it.
        """
        ...

    def cache_bytes(self, text_config: Any, dtype: torch.dtype) -> CacheBytes:
        """What all layers together keep of a sequence, the network being of type `dtype`."""
        ...

    def text_positions(self, start: int, count: int) -> np.ndarray:
        """Positions int64 [axes, count] of text that begins at `start`; it goes on behind them."""
        ...

    def image_positions(self, start: int, image: PreparedImage) -> tuple[np.ndarray, int]:
        """Positions int64 [axes, tokens] of an image at `start`, and where text goes on."""
        ...

    def image_features(self, tower: Callable[..., Any], patches: Tensor, grids: Tensor) -> Tensor:
        """Features [layers, tokens, width] of images, one behind the other.

        `patches` [n, values] are those of all images, `grids` int64 [images, 3] their patches in
        time, down and across. Layer 0 takes the place of the image tokens' embeddings; what further
        ones are for `with_images` knows.
        """
        ...

    def with_images(
        self, embeddings: Tensor, is_image: Tensor, features: Tensor
    ) -> tuple[Tensor, Mapping[str, Any]]:
        """Embeddings [B, L, width] with the images put in, and what else the text stack is given.

        `is_image` bool [B, L] is true at the places of `features` [layers, tokens, width], in the
        order of rows and of places in a row.
        """
        ...
