"""Pictures of a dataset as a page holds them: data URIs, made smaller where they are too large."""

import base64
import io
from typing import Any

from PIL import Image

from visual_r1.data.images import MAX_PIXELS

SMALL_BYTES = 24_000
"""A picture of so many bytes is shown as it is."""

PAGE_SIDE = 480
"""Pixels of the longer side of a larger one: twice what the page shows, for fine screens."""


_COLOURS_OF_A_DRAWING = 4096


def data_uri(image: bytes) -> str:
    """An encoded picture as a data URI: PNG, JPEG or WebP."""
    kind = "jpeg"
    if image.startswith(b"\x89PNG"):
        kind = "png"
    elif image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def for_the_page(image: bytes) -> str:
    """A picture as a data URI that a page can have hundreds of.

    A large one is drawn smaller, as a drawing of few colours or as a photograph, whichever takes
    less. One that cannot be decoded stays as it is: the browser says so in its place.
    """
    if len(image) <= SMALL_BYTES:
        return data_uri(image)
    try:
        with Image.open(io.BytesIO(image)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return data_uri(image)
            # A JPEG is decoded no larger than that takes.
            opened.draft("RGB", (2 * PAGE_SIDE, 2 * PAGE_SIDE))
            small = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return data_uri(image)
    small.thumbnail((PAGE_SIDE, PAGE_SIDE), reducing_gap=2.0)
    ways = [_encoded(small, "JPEG", quality=72), image]
    if small.getcolors(_COLOURS_OF_A_DRAWING) is not None:
        ways.append(_encoded(small.quantize(64), "PNG", optimize=True))
    return data_uri(min(ways, key=len))


def _encoded(picture: Image.Image, kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **how)
    return out.getvalue()
