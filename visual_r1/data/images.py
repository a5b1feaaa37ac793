"""Figures on their way into a dataset: checked, upright, opaque, of bounded size.

A file is kept byte for byte where nothing needs changing; what is changed becomes a PNG.
"""

import io
import struct
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from visual_r1.data import bitstreams, png_stream
from visual_r1.data.fingerprint import Look, look_of, tiles_of
from visual_r1.hashing import content_digest
from visual_r1.models.families import MAX_ASPECT

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 8
# A file that outweighs its own pixels carries something else: metadata, or another file behind it.
MAX_BYTES_PER_PIXEL = 4
SPARE_BYTES = 256 * 1024
# Of 255: so little contrast shows nothing to anybody.
FLAT_LEVELS = 2
# Pixels of 16 bits that stay below this share of their range were made for another one.
LEAST_USED = 1 / 8

# Only decoders that read pixels from bytes: Pillow's others run programs (EPS), read fonts, or
# take almost anything for an image (TGA). JPEG opens MPO as well.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "JPEG2000", "AVIF", "PPM")
_JPEGS = frozenset(("JPEG", "MPO"))
_KEPT_FORMATS = _JPEGS | {"PNG"}
# Their decoders give a whole picture or an error.
_WHOLE_OR_NOTHING = frozenset(("WEBP", "AVIF"))
# Decoders turn these into RGB without loss, so their files can stay as they are.
_PLAIN_MODES = frozenset(("RGB", "L", "P", "1"))
_ALPHA_MODES = frozenset(("RGBA", "LA", "PA", "RGBa", "La"))
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Tags of a TIFF.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_UNSIGNED = frozenset((1, 4))  # 4: the writer does not say
_JPEG_IN_TIFF = frozenset(("jpeg", "tiff_jpeg"))

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
    RuntimeError,  # AVIF's
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
    """Decode `data`, and mend what can be mended.

    Mended: a rotation kept in EXIF, transparency (over white), 16-bit and CMYK colours, formats
    other than PNG and JPEG, wrong checksums of chunks and a missing end where the pixels are all
    there, damaged EXIF, files that outweigh their pixels. Refused with `BadImage`: what
    `whole_image` refuses, sizes beyond the limits, and what is one flat colour.
    """
    kept, pixels = _mended(data, check=_check_size)
    grey = pixels.convert("L")
    least, most = cast("tuple[int, int]", grey.getextrema())
    if most - least <= FLAT_LEVELS + 1:  # grey is a rounded mean of the three: each may be flat
        _require_contrast(pixels)
    size = struct.pack("<II", *pixels.size)
    digest = bytes.fromhex(content_digest(size, pixels.tobytes()))
    return CheckedImage(kept, digest, look_of(grey), tiles_of(grey))


def shown_image(data: bytes) -> bytes:
    """The file of a picture that somebody shows to a policy, mended as `check_image` mends it.

    Of a dataset's figures it is asked that they show something. Whoever asks a model about one
    flat colour, or about a single pixel, gets an answer: refused with `BadImage` is what cannot be
    decoded whole, is beyond the limits, or is longer than a model can see.
    """
    return _mended(data, check=_check_shape)[0]


class KnownImages:
    """What was found of the last images that stay byte for byte as they are, by their digests.

    The same picture often stands in several rows, and rows are at times looked at twice: it is
    decoded once. Memory holds some 5 kB an image, of `most` of them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[str, CheckedImage] = OrderedDict()

    def check(self, data: bytes) -> CheckedImage:
        """As `check_image`."""
        key = content_digest(data)
        known = self._found.get(key)
        if known is not None:
            self._found.move_to_end(key)
            return replace(known, data=data)
        checked = check_image(data)
        if checked.data is data:
            self._note(key, checked)
        return checked

    def knows(self, data: bytes) -> bool:
        """Whether it need not be decoded."""
        return content_digest(data) in self._found

    def note(self, checked: CheckedImage) -> None:
        """Remember what was found of an image that stays as it is."""
        self._note(content_digest(checked.data), checked)

    def _note(self, key: str, checked: CheckedImage) -> None:
        self._found[key] = replace(checked, data=b"")
        if len(self._found) > self._most:
            self._found.popitem(last=False)


def whole_image(
    data: bytes,
    formats: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    check: Callable[[Image.Image], None] | None = None,
) -> Image.Image:
    """The one picture in `data`, decoded, in its own mode: every pixel of it was in the file.

    `png_stream` and `bitstreams` say what is looked at for it. `over_white` makes it RGB.

    Args:
        data: the file.
        formats: those of Pillow's names that may be tried; all that are known here where None.
        max_pixels: the most pixels; they are counted by the header, before anything is decoded.
        check: is shown what the header says, and may raise `BadImage` as well.

    Raises:
        BadImage: it is no picture, not all of it is there, it is animated, or its pixels are
            numbers whose range is unknown.
    """
    tried = tuple(formats) if formats is not None else _formats()
    with _decoding(data, max_pixels):
        plain = png_stream.uncompressed_png(data)
        image = Image.open(io.BytesIO(plain or data), formats=tried)
        _check_header(image, max_pixels)
        if check is not None:
            check(image)
        image.load()
        if image.format == "PNG":
            if plain is None:
                png_stream.require_whole_png(data)
        elif image.format in _JPEGS:
            bitstreams.require_whole_jpeg(data)
        elif image.format not in _WHOLE_OR_NOTHING:
            if isinstance(image, TiffImageFile):
                bitstreams.require_whole_deflate(data, image)
            with Image.open(io.BytesIO(data), formats=tried) as again:
                bitstreams.require_all_written(image, again)
        return image


@contextmanager
def _decoding(data: bytes, max_pixels: int = MAX_PIXELS) -> Generator[None]:
    """What goes wrong in a decoder becomes a `BadImage`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is checked here
            yield
    except Image.DecompressionBombError as error:
        raise BadImage(f"the image has more than {max_pixels} pixels") from error
    except UnidentifiedImageError as error:
        raise BadImage(_unidentified(data)) from error
    except _DECODE_ERRORS as error:
        raise BadImage(f"the image does not decode: {error or type(error).__name__}") from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_header(image: ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(f"the image has {width} x {height} pixels, more than {max_pixels}")
    # A phone's MPO is a JPEG with a preview behind it: the first picture is the picture.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise BadImage("the image is animated or has several pages")
    if image.mode == "F":
        raise BadImage("the image has floating-point pixels, whose range is unknown")
    # PGM is the one that says how far its numbers go.
    if image.mode == "I" and image.format != "PPM":
        raise BadImage(
            "the image has integer pixels of 32 bits or with a sign, whose range is unknown: save "
            "it with 8 bits"
        )
    if isinstance(image, TiffImageFile):
        if set(image.tag_v2.get(_SAMPLE_FORMAT, (1,))) - _UNSIGNED:
            raise BadImage("the image has pixels with a sign, whose range is unknown")
        if image.info.get("compression") in _JPEG_IN_TIFF:
            raise BadImage(
                "the image is a JPEG inside a TIFF, of which nobody can tell whether it is whole: "
                "save it as PNG"
            )


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"the image has {width} x {height} pixels; {MIN_SIDE} a side are needed")
    _check_shape(image)


def _check_shape(image: Image.Image) -> None:
    width, height = image.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(
            f"the image has {width} x {height} pixels, one side over {MAX_ASPECT} times the other"
        )


def _unidentified(data: bytes) -> str:
    if not data:
        return "the image is empty (0 bytes)"
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what in _IMPOSTORS:
        if start.startswith(beginning):
            return f"the image does not decode: it is {what}"
    if start.isascii() and start.decode("ascii").isprintable():
        return "the image does not decode: it is text"
    return "the image does not decode: no format that is known here, or a damaged beginning"


def _mended(data: bytes, check: Callable[[Image.Image], None]) -> tuple[bytes, Image.Image]:
    """The file as it is where nothing needs changing, else as a PNG; and its pixels in RGB, upright
    and over white. `check` is as in `whole_image`."""
    if not data:
        raise BadImage("the image is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise BadImage(f"the image file has {len(data)} bytes, more than {MAX_BYTES}")
    with _decoding(data):
        image = whole_image(data, check=check)
        flat, recoloured = over_white(image)
        try:
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
            described = True
        except _DECODE_ERRORS:  # damaged EXIF: the pixels stay as they are, and it must go
            turn, described = None, False
        if turn is not None:
            flat = flat.transpose(turn)
        if (
            turn is not None
            or not described
            or recoloured
            or image.format not in _KEPT_FORMATS
            or len(data) > MAX_BYTES_PER_PIXEL * flat.width * flat.height + SPARE_BYTES
            or (image.format == "PNG" and not png_stream.is_clean_png(data))
            or (image.format in _JPEGS and not bitstreams.is_clean_jpeg(data))
        ):
            # What came with the old file describes other pixels: a CMYK profile, the rotation
            # undone.
            flat.info.clear()
            out = io.BytesIO()
            flat.save(out, format="PNG")
            data = out.getvalue()
        return data, flat


def _require_contrast(flat: Image.Image) -> None:
    extrema = cast("tuple[tuple[int, int], ...]", flat.getextrema())
    if all(most - least <= FLAT_LEVELS for least, most in extrema):
        colour = "#" + bytes(least for least, _ in extrema).hex()
        raise BadImage(f"the image is one flat colour ({colour}) and shows nothing")


def over_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """What `whole_image` gave, in RGB over white; whether a plain decoder would see something else.

    Raises `BadImage` where the pixels are numbers whose range cannot be the one of their format.
    """
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        layered = image.convert("RGBA")
        if layered.getchannel("A").getextrema()[0] == 255:
            return image.convert("RGB"), False
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB"), True
    if image.mode.startswith("I"):  # 16 bits a pixel: a plain conversion clips them
        return _narrowed(image).convert("RGB"), True
    return image.convert("RGB"), image.mode not in _PLAIN_MODES


def _narrowed(image: Image.Image) -> Image.Image:
    """Gray of 16 bits, or of as many as a TIFF says, in 8."""
    wide, most = image.convert("I"), 0xFFFF
    inverted = False
    if isinstance(image, TiffImageFile):
        most = 2 ** image.tag_v2.get(_BITS, (16,))[0] - 1
        inverted = image.tag_v2.get(_PHOTOMETRIC) == 0  # white is 0
    brightest = cast("tuple[int, int]", wide.getextrema())[1]
    if not inverted and 0 < brightest < most * LEAST_USED:
        raise BadImage(
            f"the image has pixels up to {brightest} of {most}, whose range is unknown: save it "
            "with 8 bits"
        )
    narrow = wide.point(lambda value: value * (255.998 / most)).convert("L")
    return ImageOps.invert(narrow) if inverted else narrow
