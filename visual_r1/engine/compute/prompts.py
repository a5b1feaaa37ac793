"""A prompt as the model sees it: one token id and one three-dimensional position per place.

Qwen3-VL numbers places in three dimensions (time, height, width): text counts all three up
together, an image of h x w merged patches keeps time and counts rows and columns from where the
text stood, and the text goes on at start + max(h, w).

Encoded images to the patches that the vision tower reads; hostile images are refused early.
"""

import hashlib
import io
import struct
import warnings
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import of_array
from visual_r1.engine.types import ImagePart, InvalidRequest, Prompt, TextPart
from visual_r1.errors import ModelError

CACHED_BYTES = 256 * 2**20
"""Prepared images kept for the next call: a training step sees the images it sampled from."""

_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
"""What Pillow raises on a damaged file; a broken PNG chunk is a SyntaxError there."""


@dataclass(frozen=True)
class PreparedImage:
    """An image as patches, with its place in the token sequence."""

    digest: bytes
    patches: Tensor
    """float32 [grid_height * grid_width, channels * time * patch * patch], on the CPU."""
    grid: tuple[int, int]
    """Patches (down, across)."""
    tokens: int
    """Positions it takes in the sequence: patches / merge_size**2."""


class ImageReader:
    """Decodes and prepares images, keeping the latest ones."""

    def __init__(self, model_path: str, merge_size: int, max_pixels: int) -> None:
        """Load the image processor of the model's folder; `max_pixels` bounds the decoded size."""
        try:
            processor = cast(Any, Qwen2VLImageProcessorPil).from_pretrained(model_path)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"no image processor could be read from {model_path}: {error}"
            ) from error
        self._processor = processor
        self._merge_size = merge_size
        self._max_pixels = max_pixels
        self._cache: OrderedDict[bytes, PreparedImage] = OrderedDict()
        self._cached_bytes = 0

    def prepare(self, part: ImagePart) -> PreparedImage:
        """Raises `InvalidRequest` when the image is damaged, too large, or of another size."""
        digest = hashlib.blake2b(part.data, digest_size=16).digest()
        image = self._cache.get(digest)
        if image is None:
            image = self._patchify(digest, self._decode(part.data))
            self._remember(image)
        self._cache.move_to_end(digest)
        if part.expected_tokens is not None and part.expected_tokens != image.tokens:
            raise InvalidRequest(
                f"the image takes {image.tokens} tokens with this model, and expected_tokens says "
                f"{part.expected_tokens}; send {image.tokens}, or leave it out to have it counted."
            )
        return image

    def _decode(self, data: bytes) -> Image.Image:
        with warnings.catch_warnings():
            # Pillow warns of sizes that our own limit, checked on the header, allows or refuses.
            warnings.simplefilter("ignore")
            try:
                with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                    self._check_size(image.size)
                    image.load()
                    return _on_white(image)
            except Image.DecompressionBombError as error:
                raise InvalidRequest(
                    f"an image of {len(data)} bytes claims a size that no image here has, beyond "
                    f"the limit of {self._max_pixels} pixels: {error}"
                ) from error
            except _DECODE_ERRORS as error:
                raise InvalidRequest(
                    f"an image of {len(data)} bytes could not be decoded as PNG or JPEG: {error}"
                ) from error

    def _check_size(self, size: tuple[int, int]) -> None:
        width, height = size
        if width * height > self._max_pixels:
            raise InvalidRequest(
                f"an image of {width} x {height} = {width * height} pixels is beyond the limit of "
                f"{self._max_pixels}; scale it down before sending it."
            )

    def _patchify(self, digest: bytes, image: Image.Image) -> PreparedImage:
        try:
            prepared = self._processor(images=[image], return_tensors="np")
        except ValueError as error:
            raise InvalidRequest(
                f"an image of {image.width} x {image.height} pixels cannot be prepared: {error}"
            ) from error
        patches = of_array(cast(np.ndarray, prepared["pixel_values"]).astype(np.float32))
        _, down, across = (int(n) for n in prepared["image_grid_thw"][0])
        tokens = down * across // self._merge_size**2
        return PreparedImage(digest, patches, (down, across), tokens)

    def _remember(self, image: PreparedImage) -> None:
        self._cache[image.digest] = image
        self._cached_bytes += image.patches.nbytes
        while self._cached_bytes > CACHED_BYTES and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.patches.nbytes


def _on_white(image: Image.Image) -> Image.Image:
    """RGB, transparency over white as in Qwen's own tools: black lines on nothing stay seen."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        overlay = image.convert("RGBA")
        canvas = Image.new("RGBA", overlay.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, overlay).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class Layout:
    """A checked prompt of T places."""

    tokens: np.ndarray
    """int64 [T]; the image token's id where an image stands."""
    positions: np.ndarray
    """int64 [3, T]: time, height, width."""
    is_image: np.ndarray
    """bool [T]; true where an image part stands, whatever ids the text parts hold."""
    images: tuple[PreparedImage, ...]
    next_position: int
    """Where text would go on, in all three dimensions."""

    @property
    def length(self) -> int:
        """Places T."""
        return len(self.tokens)


def lay_out(base: BaseModel, images: ImageReader, prompt: Prompt) -> Layout:
    """Check a prompt and number its places.

    Raises `InvalidRequest` when it is empty, too long, holds a token id that the model does not
    have, or an image that cannot be used.
    """
    tokens: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    is_image: list[np.ndarray] = []
    prepared: list[PreparedImage] = []
    start = 0
    for part in prompt:
        if isinstance(part, TextPart):
            ids = _token_ids(part, base.vocabulary_size)
            count = len(ids)
            tokens.append(ids)
            positions.append(np.tile(np.arange(start, start + count), (3, 1)))
            start += count
        else:
            image = images.prepare(part)
            count = image.tokens
            prepared.append(image)
            tokens.append(np.full(count, base.processor.image_token_id, np.int64))
            down, across = (side // base.merge_size for side in image.grid)
            positions.append(_image_positions(start, down, across))
            start += max(down, across)
        is_image.append(np.full(count, not isinstance(part, TextPart)))
    length = sum(len(ids) for ids in tokens)
    _check_length(length, base.context_length)
    return Layout(
        tokens=np.concatenate(tokens),
        positions=np.concatenate(positions, axis=1),
        is_image=np.concatenate(is_image),
        images=tuple(prepared),
        next_position=start,
    )


def _token_ids(part: TextPart, vocabulary_size: int) -> np.ndarray:
    ids = np.asarray(part.tokens, np.int64)
    wrong = ids[(ids < 0) | (ids >= vocabulary_size)]
    if len(wrong):
        raise InvalidRequest(
            f"token id {wrong[0]} is out of range: the model has ids 0 to {vocabulary_size - 1}."
        )
    return ids


def _image_positions(start: int, down: int, across: int) -> np.ndarray:
    rows, columns = np.divmod(np.arange(down * across), across)
    return start + np.stack([np.zeros_like(rows), rows, columns])


def _check_length(length: int, context_length: int) -> None:
    if length == 0:
        raise InvalidRequest("the prompt is empty; it needs at least one token or image.")
    if length > context_length:
        raise InvalidRequest(
            f"the prompt has {length} tokens, images included, and the model's context holds "
            f"{context_length}."
        )
