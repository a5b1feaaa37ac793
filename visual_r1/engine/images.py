"""Encoded images to the patches that the vision tower reads; hostile images are refused early."""

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

from visual_r1.engine.requests import ImagePart, InvalidRequest
from visual_r1.engine.tensors import of_array
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
