"""Figures on their way into a dataset: checked, upright, opaque, of bounded size.

A file is kept byte for byte where nothing needs changing; what is changed becomes a PNG.
"""

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageOps, UnidentifiedImageError

from visual_r1.data.fingerprint import Look, look_of, tiles_of
from visual_r1.models.families import MAX_ASPECT

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 8
# A file that outweighs its own pixels carries something else: metadata, or another file behind it.
MAX_BYTES_PER_PIXEL = 4
SPARE_BYTES = 256 * 1024

# Only decoders that read pixels from bytes: Pillow's others run programs (EPS), read fonts, or
# take almost anything for an image (TGA). JPEG opens MPO as well.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "JPEG2000", "AVIF", "PPM")
_KEPT_FORMATS = frozenset(("PNG", "JPEG", "MPO"))
# Decoders turn these into RGB without loss, so their files can stay as they are.
_PLAIN_MODES = frozenset(("RGB", "L", "P", "1"))
_ALPHA_MODES = frozenset(("RGBA", "LA", "PA", "RGBa", "La"))
_ORIENTATION = 0x0112
_TURNED = range(2, 9)
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

# What people have in the place of an image, by how it begins (in lower case, spaces stripped).
_IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer and not the image: run git lfs pull"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "an SVG drawing: convert it to PNG"),
    (b"<?xml", "XML, perhaps an SVG drawing: convert it to PNG"),
    (b"%pdf", "a PDF: convert it to PNG"),
    (b"%!ps", "PostScript: convert it to PNG"),
    (b"pk\x03\x04", "a ZIP archive: unpack it"),
    (b"{", "JSON"),
)
# All of these come out of Pillow's decoders for damaged files.
_DECODE_ERRORS = (
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
)


class BadImage(Exception):
    """The file cannot serve as a figure; the message says why."""


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An encoded PNG or JPEG that decodes, a digest of its pixels, its look and its tiles."""

    data: bytes
    pixels: bytes
    look: Look
    tiles: bytes


def check_image(data: bytes) -> CheckedImage:
    """Decode `data` once, and mend what can be mended.

    Mended: a rotation kept in EXIF, transparency (over white), 16-bit and CMYK colours, formats
    other than PNG and JPEG, wrong checksums and a missing end in a PNG whose pixels are all there,
    damaged EXIF, files that outweigh their pixels. Refused with `BadImage`: what does not decode,
    animations, sizes beyond the limits (found in the header, before anything is decoded).
    """
    if not data:
        raise BadImage("the image is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise BadImage(f"the image file has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is checked below
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                _check_header(image)
                image.load()
                return _mended(image, data)
    except Image.DecompressionBombError as error:
        raise BadImage(f"the image has more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise BadImage(_unidentified(data)) from error
    except _DECODE_ERRORS as error:
        raise BadImage(f"the image does not decode: {error or type(error).__name__}") from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"the image has {width} x {height} pixels, more than {MAX_PIXELS}")
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"the image has {width} x {height} pixels; {MIN_SIDE} a side are needed")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(
            f"the image has {width} x {height} pixels, one side over {MAX_ASPECT} times the other"
        )
    if image.mode == "F":
        raise BadImage("the image has floating-point pixels, whose range is unknown")
    # A phone's MPO is a JPEG with a preview behind it: the first picture is the picture.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise BadImage("the image is animated or has several pages")


def _unidentified(data: bytes) -> str:
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what in _IMPOSTORS:
        if start.startswith(beginning):
            return f"the image does not decode: it is {what}"
    if start.isascii() and start.decode("ascii").isprintable():
        return "the image does not decode: it is text"
    return "the image does not decode: no format that is known here, or a damaged beginning"


def _mended(image: Image.Image, data: bytes) -> CheckedImage:
    """The decoded image: its file as it is where nothing needs changing, else as a PNG."""
    upright = _upright(image)
    flat, recoloured = _flattened(image if upright is None else upright)
    if (
        upright is not image
        or recoloured
        or image.format not in _KEPT_FORMATS
        or len(data) > MAX_BYTES_PER_PIXEL * flat.width * flat.height + SPARE_BYTES
        or (image.format == "PNG" and not _sound_png(data))
    ):
        # What came with the old file describes other pixels: a CMYK profile, the rotation undone.
        flat.info.clear()
        out = io.BytesIO()
        flat.save(out, format="PNG")
        data = out.getvalue()
    size = struct.pack("<II", *flat.size)
    digest = hashlib.blake2b(size + flat.tobytes(), digest_size=16).digest()
    grey = flat.convert("L")
    return CheckedImage(data, digest, look_of(grey), tiles_of(grey))


def _upright(image: Image.Image) -> Image.Image | None:
    """The image turned as its EXIF says; itself where there is nothing to turn.

    None where the EXIF is damaged: the pixels stay as they are, and the EXIF must go.
    """
    try:
        if image.getexif().get(_ORIENTATION) not in _TURNED:
            return image
        return ImageOps.exif_transpose(image)
    except _DECODE_ERRORS:
        return None


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


def _sound_png(data: bytes) -> bool:
    """Whether every checksum is right and IEND is the end: Pillow reads on where others refuse."""
    view = memoryview(data)
    start = len(_PNG_MAGIC)
    # A chunk: the length of its contents, its name, the contents, their checksum with the name.
    while start + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            return False
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[start + 4 : end - 4]) != checksum:
            return False
        if name == b"IEND":
            return end == len(data)
        start = end
    return False
