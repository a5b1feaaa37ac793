"""A model's tokenizer, chat template and image arithmetic, without torchvision and without pixels.

transformers' own `Qwen3VLProcessor` wants a video processor, and that wants torchvision. Prompts
need less: text to tokens, messages to text, and how many visual tokens an image of a size becomes.
"""

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file  # pyright: ignore[reportUnknownVariableType]

from visual_r1.errors import DataError, ModelError
from visual_r1.models import model_path

# Qwen's image processors refuse what is more elongated than this.
_MAX_ASPECT = 200


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
        if min(width, height) < 1 or max(width, height) > _MAX_ASPECT * min(width, height):
            raise DataError(
                f"an image of {width} x {height} pixels is empty, or one side is more than "
                f"{_MAX_ASPECT} times the other, which the model cannot see; crop it."
            )
        factor = self.patch * self.merge
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


class _Tokenizer(Protocol):
    """What is used of a transformers tokenizer, typed."""

    chat_template: str | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(
        self,
        token_ids: list[int],
        *,
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: bool,
    ) -> str: ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
    ) -> str: ...

    def get_vocab(self) -> dict[str, int]: ...


class Processor:
    """The text and image arithmetic of one model; see `load_processor`. Threads may share it."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerFast, grid: ImageGrid) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self._text = cast(_Tokenizer, tokenizer)
        self.grid = grid
        # A fast tokenizer is one object in Rust: a thread that sets it up while another uses it
        # fails with "Already borrowed" (huggingface/transformers#47085).
        self._one_thread = threading.Lock()
        self.image_token_id = self._id("<|image_pad|>")
        self.vision_start_id = self._id("<|vision_start|>")
        self.vision_end_id = self._id("<|vision_end|>")
        self.stop_token_ids = [self._id("<|im_end|>"), self._id("<|endoftext|>")]

    def encode(self, text: str) -> list[int]:
        """Tokens of `text`; nothing is added, and names such as `<|im_end|>` become their ids."""
        with self._one_thread:
            return self._text.encode(text, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special tokens included."""
        with self._one_thread:
            return self._text.decode(
                list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )

    def chat(self, messages: list[dict[str, Any]]) -> str:
        """`messages` as the model's chat text, up to where the assistant begins to write."""
        return self._text.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def image_tokens(self, width: int, height: int) -> int:
        """How many `<|image_pad|>` tokens the model's processor makes of an image of this size."""
        return self.grid.tokens(width, height)

    def _id(self, token: str) -> int:
        index = self._text.get_vocab().get(token)
        if index is None:
            raise ModelError(
                f"the tokenizer of {self.name!r} has no token {token}; "
                "use a Qwen3-VL model (a hub id or a folder)."
            )
        return index


@cache
def load_processor(name: str) -> Processor:
    """The processor of the shipped model, a folder or a hub id; loaded once.

    Raises `ModelError` when there is no such model, or when it is not of Qwen's vision family.
    """
    path = model_path(name)
    settings = _json(path, "preprocessor_config.json")
    if settings is None:
        raise ModelError(
            f"{name!r} has no preprocessor_config.json, or is neither a folder nor a model of the "
            "hub; check --model.name."
        )
    try:
        tokenizer = cast(
            PreTrainedTokenizerFast,
            AutoTokenizer.from_pretrained(path),  # pyright: ignore[reportUnknownMemberType]
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"the tokenizer of {name!r} cannot be loaded: {error}") from error
    text = cast(_Tokenizer, tokenizer)
    if text.chat_template is None:
        text.chat_template = (_json(path, "chat_template.json") or {}).get("chat_template")
    if text.chat_template is None:
        raise ModelError(f"{name!r} has no chat template; use an Instruct or Thinking variant.")
    return Processor(name, tokenizer, _grid(name, settings))


def _grid(name: str, settings: Mapping[str, Any]) -> ImageGrid:
    """The image arithmetic that a preprocessor_config.json stands for."""
    size = cast("Mapping[str, int]", settings.get("size") or {})
    try:
        return ImageGrid(
            patch=int(settings["patch_size"]),
            merge=int(settings["merge_size"]),
            # Older files give the areas by name, newer ones as "edges" of `size`.
            min_pixels=int(settings.get("min_pixels") or size["shortest_edge"]),
            max_pixels=int(settings.get("max_pixels") or size["longest_edge"]),
        )
    except KeyError as error:
        raise ModelError(
            f"preprocessor_config.json of {name!r} lacks {error}; use a Qwen3-VL model."
        ) from error


def _json(path: str, file: str) -> dict[str, Any] | None:
    """A JSON file of a model folder or hub repository; None where there is none."""
    try:
        found = cached_file(path, file, _raise_exceptions_for_missing_entries=False)  # pyright: ignore[reportUnknownVariableType]
    except (OSError, ValueError):
        return None
    if found is None:
        return None
    try:
        return cast("dict[str, Any]", json.loads(Path(found).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ModelError(f"{found} is not JSON: {error}") from error
