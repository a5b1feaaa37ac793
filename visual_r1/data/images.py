"""Figures on their way into a dataset: checked, upright, opaque, of bounded size.

A file is kept byte for byte where nothing needs changing; what is changed becomes a PNG.
"""

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass

from PIL import Image, ImageOps

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 8
# Qwen's image processors refuse what is more elongated.
MAX_ASPECT = 200

# Decoders turn these into RGB without loss, so their files can stay as they are.
_PLAIN_MODES = frozenset(("RGB", "L", "P", "1"))
_ALPHA_MODES = frozenset(("RGBA", "LA", "PA", "RGBa", "La"))
_KEPT_FORMATS = frozenset(("PNG", "JPEG", "MPO"))
_ORIENTATION = 0x0112


class BadImage(Exception):
    """The file cannot serve as a figure; the message says why."""


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An encoded PNG or JPEG that decodes, and a digest of its pixels."""

    data: bytes
    width: int
    height: int
    pixels: bytes


def check_image(data: bytes) -> CheckedImage:
    """Decode `data` once, and mend what can be mended.

    Mended: a rotation kept in EXIF, transparency (over white), 16-bit and CMYK colours, formats
    other than PNG and JPEG. Refused with `BadImage`: what does not decode, animations, sizes
    beyond the limits (found in the header, before anything is decoded).
    """
    if not data:
        raise BadImage("the image is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise BadImage(f"the image file has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is checked below
            with Image.open(io.BytesIO(data)) as image:
                _check_header(image)
                image.load()
                return _mended(image, data)
    except Image.DecompressionBombError as error:
        raise BadImage(f"the image has more than {MAX_PIXELS} pixels") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        OverflowError,
        MemoryError,
        KeyError,
        IndexError,
        TypeError,
        struct.error,
        zlib.error,
    ) as error:  # all of these come out of Pillow's decoders for damaged files
        raise BadImage(f"the image does not decode: {error or type(error).__name__}") from error


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"the image has {width} x {height} pixels, more than {MAX_PIXELS}")
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"the image has {width} x {height} pixels; {MIN_SIDE} a side are needed")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(
            f"the image has {width} x {height} pixels: longer than {MAX_ASPECT} times its width"
        )
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise BadImage("the image is animated or has several pages")


def _mended(image: Image.Image, data: bytes) -> CheckedImage:
    upright = image
    if image.getexif().get(_ORIENTATION, 1) != 1:
        upright = ImageOps.exif_transpose(image)
    flat, recoloured = _flattened(upright)
    if upright is not image or recoloured or image.format not in _KEPT_FORMATS:
        out = io.BytesIO()
        flat.save(out, format="PNG")
        data = out.getvalue()
    size = struct.pack("<II", *flat.size)
    digest = hashlib.blake2b(size + flat.tobytes(), digest_size=16).digest()
    return CheckedImage(data, flat.width, flat.height, digest)


def _flattened(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image in RGB over white, and whether a plain decoder would have seen something else."""
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        layered = image.convert("RGBA")
        if layered.getchannel("A").getextrema()[0] == 255:
            return image.convert("RGB"), False
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB"), True
    if image.mode.startswith("I"):  # 16 bits a pixel: a plain conversion clips them
        narrow = image.convert("I").point(lambda value: value * (1 / 256))
        return narrow.convert("L").convert("RGB"), True
    return image.convert("RGB"), image.mode not in _PLAIN_MODES
