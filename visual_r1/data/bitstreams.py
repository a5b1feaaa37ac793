"""Whether the pixels of an encoded picture are all there: what Pillow does not say.

Pillow takes a compressed stream that ends early for a whole picture, and what its JPEG decoder
warns of is lost. Here the pixels are counted, by what each format offers for it.

PNG: see `png_stream`. JPEG: libjpeg's warnings count (a code that is none, a stream
that ends before its picture or after it), no block may be brighter than white or darker than black,
and each component must have come in full precision, so a progressive file that lost its last scans
is noticed. Others: the picture is decoded once more over another canvas, and a pixel that differs
was never written. What a TIFF holds as deflate has the checksum of a PNG's stream, which libtiff
does not look at.

A JPEG, WebP, AVIF or JPEG 2000 carries no checksums: damage that leaves a stream which could have
been written so is other pixels, and nobody can tell.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import simplejpeg  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

_PIECE = 2**20

# Of a TIFF: how Pillow names its compressions, and its tags.
_DEFLATE = frozenset(("tiff_adobe_deflate", "tiff_deflate"))
_FILL_ORDER = 266
_PIECES_OF_A_TIFF = ((273, 279), (324, 325))  # where strips and tiles begin, and how long they are
_MOST_BYTES = 16  # of a pixel, and of what fills a tile up

_END_OF_IMAGE = b"\xff\xd9"
_PADDINGS = (b"\x55" * 256, b"\xb2" * 256)
# A marker in compressed data; FF 00 is a byte of it, D0 to D7 are restarts, FF FF is padding.
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
# libjpeg warns of these in a header, and decodes as everybody does.
_HARMLESS = ("unknown jfif revision", "unknown adobe color transform")
_COEFFICIENTS = 64
_MIDDLE = 128
# Encoders overshoot at edges, to have them cut off sharply.
MOST_OVERSHOT = 32


def is_clean_jpeg(data: bytes) -> bool:
    """Whether the marker that ends a JPEG is there."""
    return any(marker == 0xD9 for marker, _, _ in _segments(data))


def require_whole_jpeg(data: bytes) -> None:
    """Raise `ValueError` where the stream is not exactly one picture in full precision.

    A file that lacks nothing but the marker of its end is whole.
    """
    _require_all_scans(data)
    if not is_clean_jpeg(data):
        data += _END_OF_IMAGE
    try:
        space: str = simplejpeg.decode_jpeg_header(data, strict=False)[2]
    except (ValueError, KeyError):
        # It knows the usual ways of subsampling alone (4:2:0, 4:4:4 …); libjpeg decodes any.
        _require_all_read(data)
        return
    coarser, steps = _halved_steps(data)
    try:
        means = _eighth(coarser, space, strict=True)
    except ValueError as error:
        if not str(error).lower().removeprefix("warning: ").startswith(_HARMLESS):
            raise
        means = _eighth(coarser, space, strict=False)
    if space not in ("Gray", "YCbCr") or steps is None:
        return
    # The means of blocks, as far from the middle gray as what was read says.
    step, halved = steps
    far = np.abs(means.astype(np.int32) - _MIDDLE).max() * (step / halved)
    if far > _MIDDLE + MOST_OVERSHOT + step / 8:
        raise ValueError(
            f"a part of it is {far - _MIDDLE:.0f} levels brighter than white or darker than black"
        )


def _require_all_read(data: bytes) -> None:
    """Raise `ValueError` where the decoder would read on behind the end: not all was there.

    Other bytes are put there for that, which change nothing where the last block came before.
    """
    end = next(start for marker, start, _ in _segments(data) if marker == 0xD9) - 2
    seen = set[bytes]()
    for padding in _PADDINGS:
        with Image.open(io.BytesIO(data[:end] + padding + _END_OF_IMAGE), formats=["JPEG"]) as one:
            seen.add(one.tobytes())
    if len(seen) > 1:
        raise ValueError("its pixels are cut off")


def _eighth(data: bytes, space: str, *, strict: bool) -> NDArray[np.uint8]:
    """[h, w, channels] at an eighth of the size: all of the stream is read, and a pixel a block
    comes of it."""
    wanted = "CMYK" if space in ("CMYK", "YCCK") else "GRAY"
    return simplejpeg.decode_jpeg(data, wanted, min_height=1, min_width=1, strict=strict)


def _halved_steps(data: bytes) -> tuple[bytes, tuple[int, int] | None]:
    """The file with half the quantisation of the blocks' means, and that of table 0: old and new.

    So a mean that no picture has is seen, which a decoder else cuts off at black and white.
    """
    out, steps = bytearray(data), None
    for marker, start, end in _segments(data):
        place = start
        while marker == 0xDB and place < end:
            wide, table = data[place] >> 4, data[place] & 15
            form = ">H" if wide else ">B"
            if place + 1 + 64 * struct.calcsize(form) > end:
                break
            (step,) = struct.unpack_from(form, data, place + 1)
            halved = max(1, step // 2)
            struct.pack_into(form, out, place + 1, halved)
            if table == 0 and step:
                steps = step, halved
            place += 1 + 64 * struct.calcsize(form)
    return bytes(out), steps


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The markers of a JPEG up to its end, each with where its contents start and end."""
    place = 2
    while (found := _NEXT_MARKER.search(data, place)) is not None:
        marker, start = data[found.end() - 1], found.end()
        if marker in _ALONE or marker == 0xD9:
            yield marker, start, start
            if marker == 0xD9:
                return
            place = start
            continue
        if start + 2 > len(data):
            return
        end = start + struct.unpack_from(">H", data, start)[0]
        yield marker, start + 2, min(end, len(data))
        place = max(end, start)


def _require_all_scans(data: bytes) -> None:
    """Raise `ValueError` where a component lacks coefficients, or bits of them."""
    # For each component and coefficient the lowest bit that came; None before any.
    came: dict[int, list[int | None]] = {}
    progressive = False
    for marker, start, end in _segments(data):
        inside = data[start:end]
        if marker in _FRAMES and not came and len(inside) >= 6:
            progressive = marker in _PROGRESSIVE
            count = inside[5]
            came = {one: [None] * _COEFFICIENTS for one in inside[6 : 6 + 3 * count : 3]}
        elif marker == 0xDA and inside and len(inside) >= 4 + 2 * inside[0]:
            count = inside[0]
            first, last, bits = inside[1 + 2 * count : 4 + 2 * count]
            if not progressive:
                first, last, bits = 0, _COEFFICIENTS - 1, 0
            for component in inside[1 : 1 + 2 * count : 2]:
                for place in range(first, min(last, _COEFFICIENTS - 1) + 1):
                    if component in came:
                        came[component][place] = bits & 15
    missing = sum(bit != 0 for bits in came.values() for bit in bits)
    if missing:
        raise ValueError(
            f"{missing} of its {len(came) * _COEFFICIENTS} frequencies did not come in full: scans "
            "are missing"
        )


def require_whole_deflate(data: bytes, image: TiffImageFile) -> None:
    """Raise `ValueError` or `zlib.error` where a strip or tile of a TIFF is not whole.

    Nothing is asked of those that are compressed in another way.
    """
    if image.info.get("compression") not in _DEFLATE or image.tag_v2.get(_FILL_ORDER, 1) != 1:
        return
    most = _MOST_BYTES * image.width * image.height + _PIECE
    for offsets, counts in _PIECES_OF_A_TIFF:
        places = zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(counts, ()), strict=True)
        for start, length in places:
            inflated, stream = zlib.decompressobj(), data[start : start + length]
            while not inflated.eof:
                made = len(inflated.decompress(stream, _PIECE))
                stream, most = inflated.unconsumed_tail, most - made
                if most < 0 or not (made or inflated.eof):
                    raise ValueError("a part of its pixels is cut, or holds more than pixels")


def require_all_written(image: ImageFile, again: ImageFile) -> None:
    """Raise `ValueError` where pixels of the loaded `image` were never written.

    `again` is the same file, opened and not yet loaded; it is decoded over another canvas.
    """
    prepare = again.load_prepare
    # A GIF's own canvas has the colour of its transparency, all others begin at 0; and its frame
    # may leave a margin.
    ink = 0 if again.info.get("transparency") == 255 else 255
    written = again.tile[0].extents if again.tile and again.format == "GIF" else None

    def prepare_in_ink() -> None:
        prepare()
        bands = len(again.getbands())
        again.im = Image.new(again.mode, again.size, (ink,) * bands if bands > 1 else ink).im

    vars(again)["load_prepare"] = prepare_in_ink
    again.load()
    one, other = (each.crop(written).tobytes() for each in (image, again))
    if one != other:
        width, height = image.size
        raise ValueError(f"pixels of its {width} x {height} are missing")
