"""How a family of models wants its prompts: special tokens, and what an image becomes.

The other half of a family, what computing with it takes, is in `visual_r1.engine.compute.families`;
it needs torch, and this room does not. A further family is a further `PromptFormat` in `FORMATS`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from visual_r1.errors import DataError

MAX_ASPECT = 200
"""Qwen's image processors refuse what is more elongated than this; datasets leave it out."""


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """How an image is cut: patches of `patch` px, merged `merge` x `merge` into a visual token.

    Images are scaled so that their area lies between `min_pixels` and `max_pixels`.
    """

    patch: int
    merge: int
    min_pixels: int
    max_pixels: int

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in pixels after scaling: multiples of `patch * merge`.

        The same arithmetic, roundings included, as transformers' `smart_resize` for Qwen2-VL.
        Raises `DataError` for an empty or a very elongated image.
        """
        if min(width, height) < 1 or max(width, height) > MAX_ASPECT * min(width, height):
            raise DataError(
                f"an image of {width} x {height} pixels is empty, or one side is more than "
                f"{MAX_ASPECT} times the other, which the model cannot see; crop it."
            )
        factor = self.patch * self.merge
        # Python's round goes to the even number at a half, and so does theirs.
        wide, high = round(width / factor) * factor, round(height / factor) * factor
        if wide * high > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            wide = max(factor, math.floor(width / shrink / factor) * factor)
            high = max(factor, math.floor(height / shrink / factor) * factor)
        elif wide * high < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            wide = math.ceil(width * grow / factor) * factor
            high = math.ceil(height * grow / factor) * factor
        return wide, high

    def tokens(self, width: int, height: int) -> int:
        """Visual tokens of an image of `width` x `height` pixels."""
        wide, high = self.resized(width, height)
        return (wide // (self.patch * self.merge)) * (high // (self.patch * self.merge))


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """What the prompts of a family are made of, its chat template aside (the checkpoint has it)."""

    title: str
    """As a person calls the family."""
    image_token: str
    """What the chat template writes in an image's place; as many of them as it has visual tokens
    are what the model reads."""
    vision_start: str
    vision_end: str
    """What stands before and behind an image's tokens."""
    stop_tokens: tuple[str, ...]
    """Any of them ends an answer."""
    image_grid: Callable[[Mapping[str, Any]], ImageGrid]
    """Reads the settings of images. Raises `KeyError` where one is missing, `TypeError` or
    `ValueError` where one is no number."""


def _qwen_grid(settings: Mapping[str, Any]) -> ImageGrid:
    size = cast("Mapping[str, int]", settings.get("size") or {})
    return ImageGrid(
        patch=int(settings["patch_size"]),
        merge=int(settings["merge_size"]),
        # Older files give the areas by name, newer ones as "edges" of `size`.
        min_pixels=int(settings.get("min_pixels") or size["shortest_edge"]),
        max_pixels=int(settings.get("max_pixels") or size["longest_edge"]),
    )


QWEN3_VL = PromptFormat(
    title="Qwen3-VL",
    image_token="<|image_pad|>",
    vision_start="<|vision_start|>",
    vision_end="<|vision_end|>",
    stop_tokens=("<|im_end|>", "<|endoftext|>"),
    image_grid=_qwen_grid,
)

QWEN3_5 = replace(QWEN3_VL, title="Qwen3.5")
"""Qwen3.5 and 3.6 name their tokens as Qwen3-VL does; ids and chat template are their own."""

FORMATS: Mapping[str, PromptFormat] = {
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL,
    "qwen3_5": QWEN3_5,
    "qwen3_5_moe": QWEN3_5,
}
"""By the checkpoint's `model_type`."""


def prompt_format(model_type: str | None) -> PromptFormat:
    """The format for a checkpoint's `model_type`; None where the checkpoint does not tell.

    What is not listed is read as Qwen3-VL: a hosted server may offer a relative with the same
    tokens that is not known here. If it is no relative, its tokenizer lacks the special tokens, and
    `load_processor` says so.
    """
    return FORMATS.get(model_type or "", QWEN3_VL)
