"""Images on their way into a prompt: their size, scaled down where too large, blanked.

A figure is decoded only where its pixels must change; its size is read from the file's header.
"""

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from visual_r1.data.images import BadImage, over_white, whole_image
from visual_r1.errors import DataError
from visual_r1.models.families import MAX_ASPECT, ImageGrid

ImageFormat = Literal["png", "jpeg"]

_MAGIC: tuple[tuple[bytes, ImageFormat], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
)


@dataclass(frozen=True, slots=True)
class PromptImage:
    """An encoded image as it is sent, with its size in pixels."""

    data: bytes
    format: ImageFormat
    width: int
    height: int


@lru_cache(maxsize=256)
def prepare_image(data: bytes, max_pixels: int) -> PromptImage:
    """`data` itself where it is PNG or JPEG and small enough; else a PNG of at most `max_pixels`.

    The aspect ratio is kept as well as whole pixels allow. Raises `DataError` where `data` is not
    an image.
    """
    image_format: ImageFormat | None = next(
        (name for magic, name in _MAGIC if data.startswith(magic)), None
    )
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if image_format is not None and width * height <= max_pixels:
                return PromptImage(data, image_format, width, height)
            wide, high = scaled_size(width, height, max_pixels)
        pixels, _ = over_white(whole_image(data))
        if (wide, high) != (width, height):
            pixels = pixels.resize((wide, high), Image.Resampling.LANCZOS)
        return PromptImage(_png(pixels), "png", wide, high)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, BadImage) as error:
        raise DataError(
            f"an image of {len(data)} bytes cannot be decoded: {error}; prepare the dataset again."
        ) from error


@lru_cache(maxsize=1024)
def blank_image(width: int, height: int) -> PromptImage:
    """A white PNG of this size."""
    return PromptImage(_png(Image.new("RGB", (width, height), "white")), "png", width, height)


def masked_image(image: PromptImage, grid: ImageGrid, share: float, seed: int) -> PromptImage:
    """`image` as the model resizes it, with `share` of its patches black, drawn from `seed`.

    The patches are the model's own, `grid.patch` px wide and high, and exactly the rounded share of
    them is black. Black and not white: in a drawing an empty patch is as good as a white one, and
    what is hidden should not look empty. So PAPO masks as well (Wang et al. 2025,
    arXiv:2507.06448), which found 60 % to be the share that hides what is asked about.
    """
    wide, high = grid.resized(image.width, image.height)
    pixels, _ = over_white(whole_image(image.data))
    pixels = pixels.convert("RGB").resize((wide, high), Image.Resampling.BICUBIC)
    rows, columns = high // grid.patch, wide // grid.patch
    order = np.random.default_rng(seed).permutation(rows * columns)
    hidden = np.zeros(rows * columns, dtype=bool)
    hidden[order[: round(share * rows * columns)]] = True
    mask = np.kron(hidden.reshape(rows, columns), np.ones((grid.patch, grid.patch), dtype=bool))
    shown = np.where(mask[:, :, None], np.uint8(0), np.asarray(pixels))
    return PromptImage(_png(Image.fromarray(shown)), "png", wide, high)


def scaled_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Width and height scaled down to an area of at most `max_pixels`, each at least 1.

    Rounding a short side down makes the picture longer: it stays within what a model can see
    (`MAX_ASPECT` to 1) where it was.
    """
    if width * height <= max_pixels:
        return width, height
    shrink = math.sqrt(max_pixels / (width * height))
    wide = max(1, math.floor(width * shrink))
    high = max(1, math.floor(height * shrink))
    # A side that was raised to 1 leaves the other too long for the area.
    wide, high = min(wide, max_pixels // high), min(high, max_pixels)
    if max(width, height) > MAX_ASPECT * min(width, height):
        return wide, high
    return min(wide, MAX_ASPECT * high), min(high, MAX_ASPECT * wide)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
