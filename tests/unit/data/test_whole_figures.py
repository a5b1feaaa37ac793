"""Figures of which not every pixel is there, or whose pixels say nothing."""

import io
import random
import struct
import zlib
from contextlib import suppress
from typing import cast

import numpy as np
import pytest
from drawn import figure
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from visual_r1.data import png_stream
from visual_r1.data.images import BadImage, check_image, over_white, shown_image, whole_image
from visual_r1.data.png_stream import is_clean_png, uncompressed_png

SIDE = 64
PIXELS = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip


def rows_of(pixels: NDArray[np.uint8]) -> bytes:
    """As a PNG holds them: each behind the byte of its filter."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


ROWS = rows_of(PIXELS)
INTERLACED = b"".join(rows_of(PIXELS[y::dy, x::dx]) for x, y, dx, dy in ADAM7)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(stream: bytes, interlaced: bool = False, pieces: int = 1) -> bytes:
    """A PNG of SIDE x SIDE pixels with sound checksums around any stream."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, interlaced)
    size = -(-len(stream) // pieces)
    parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    body = b"".join(chunk(b"IDAT", part) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg(**options: object) -> bytes:
    image = Image.open(io.BytesIO(figure(5, (400, 300))))
    return encoded(image, "JPEG", quality=90, **options)


def in_mode(mode: str) -> bytes:
    image = Image.open(io.BytesIO(figure(6, (61, 43)))).convert("RGB")
    if mode == "I;16":
        wide = np.asarray(image.convert("L"), np.uint16) * 257
        return encoded(Image.fromarray(wide), "PNG")
    if mode == "P, transparent":
        return encoded(image.quantize(5), "PNG", transparency=2)
    return encoded(image.convert(mode), "PNG")


def refusal(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        check_image(data)
    return str(caught.value)


@pytest.mark.parametrize("rows", [1, 30, 63])
def test_rows_of_a_png_are_counted(rows: int) -> None:
    stream = zlib.compress(ROWS[: rows * (1 + 3 * SIDE)])
    assert f"only {rows} of its {SIDE} rows are there" in refusal(png(stream))


def test_a_png_is_its_pixels_and_no_more() -> None:
    for whole in (png(zlib.compress(ROWS)), png(zlib.compress(ROWS), pieces=7)):
        assert check_image(whole).data == whole
    assert check_image(png(zlib.compress(INTERLACED), True)).pixels == check_image(whole).pixels
    assert "more than the 64 x 64 pixels" in refusal(png(zlib.compress(ROWS + bytes(193))))
    assert "checksum" in refusal(png(zlib.compress(ROWS)[:-4]))
    wrong = bytearray(zlib.compress(ROWS))
    wrong[-1] ^= 1
    assert "does not decode" in refusal(png(bytes(wrong)))


INSIDE = {
    **{mode: in_mode(mode) for mode in ("1", "L", "LA", "P", "P, transparent", "RGB", "RGBA")},
    "I;16": in_mode("I;16"),
    "interlaced": png(zlib.compress(INTERLACED), interlaced=True),
    "in pieces": png(zlib.compress(ROWS), pieces=7),
    "with more behind": png(zlib.compress(ROWS))[:-12] + chunk(b"tEXt", b"Title\0a figure"),
}  # fmt: skip


def test_a_long_stream_is_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(zlib.compress(ROWS))
    checked = check_image(data)
    monkeypatch.setattr(png_stream, "_MOST_PLAIN", len(ROWS) - 1)
    assert uncompressed_png(data) is None
    assert check_image(data) == checked
    assert "checksum" in refusal(png(zlib.compress(ROWS)[:-4]))


@pytest.mark.parametrize("data", INSIDE.values(), ids=list(INSIDE))
def test_what_is_inflated_here_gives_the_pixels_that_pillow_reads(data: bytes) -> None:
    stored = uncompressed_png(data)
    assert stored is not None, "by the shorter way"
    assert is_clean_png(stored) == is_clean_png(data), "what is around the stream stays"
    ours = whole_image(data)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert (ours.mode, ours.size, ours.tobytes()) == (image.mode, image.size, image.tobytes())
        assert (ours.info, ours.getpalette()) == (image.info, image.getpalette())


@pytest.mark.parametrize("share", [0.001, 0.016, 0.5, 0.999])
def test_an_interlaced_png_may_not_be_cut(share: float) -> None:
    stream = zlib.compress(INTERLACED[: int(len(INTERLACED) * share)])
    assert "does not decode" in refusal(png(stream, interlaced=True))


def test_each_bit_of_a_png_counts() -> None:
    data = figure(3)
    pixels = check_image(data).pixels
    for bit in range(0, 8 * len(data), 5):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert check_image(bytes(damaged)).pixels == pixels
        except BadImage:
            continue


@pytest.mark.parametrize("name", ["tiff_adobe_deflate", "tiff_deflate"])
def test_each_byte_of_a_deflated_tiff_counts(name: str) -> None:
    """libtiff stops before the checksum: of a small figure's bytes, every second one passed."""
    picture = Image.open(io.BytesIO(figure(5, (200, 150)))).convert("RGB")
    data = encoded(picture, "TIFF", compression=name)
    tags = cast("TiffImageFile", Image.open(io.BytesIO(data))).tag_v2
    places = list(zip(tags[273], tags[279], strict=True))
    assert len(places) > 1
    pixels = check_image(data).pixels
    for start, length in places:
        for at in range(start, start + length, 5):
            damaged = data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
            assert "does not decode" in refusal(damaged)
    assert check_image(encoded(picture, "TIFF", compression="tiff_lzw")).pixels == pixels


JPEGS = {
    "baseline": jpeg(),
    "progressive": jpeg(progressive=True),
    "optimised": jpeg(optimize=True),
    "restarts": jpeg(restart_marker_rows=1),
    "full colours": jpeg(subsampling=0),
}
JPEGS |= {
    "gray": encoded(Image.open(io.BytesIO(JPEGS["baseline"])).convert("L"), "JPEG"),
    "cmyk": encoded(Image.open(io.BytesIO(JPEGS["baseline"])).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS.keys())
def test_a_jpeg_may_not_be_cut(data: bytes) -> None:
    check_image(data)
    begins = data.index(b"\xff\xda") + 20
    for share in (0, 0.1, 0.3, 0.5, 0.8, 0.97):
        cut = data[: begins + int((len(data) - begins) * share)]
        assert "does not decode" in refusal(cut)
        assert "does not decode" in refusal(cut + b"\xff\xd9"), "an end was put behind the cut"


def of_wide_units() -> bytes:
    """A JPEG whose components all have 3 x 1 blocks a unit: another picture in as many blocks."""
    image = Image.open(io.BytesIO(figure(5, (480, 304)))).convert("RGB")
    data = bytearray(encoded(image, "JPEG", keep_rgb=True, subsampling=0))
    first = data.index(b"\xff\xc0") + 11
    data[first : first + 9 : 3] = b"\x31\x31\x31"
    return bytes(data)


ODDLY_SAMPLED = {
    "cmyk in 4:2:0": encoded(
        Image.open(io.BytesIO(figure(5, (400, 300)))).convert("CMYK"), "JPEG", subsampling=2
    ),
    "wide units": of_wide_units(),
}


@pytest.mark.parametrize("data", ODDLY_SAMPLED.values(), ids=ODDLY_SAMPLED.keys())
def test_a_jpeg_of_an_unusual_subsampling_is_whole_or_refused(data: bytes) -> None:
    assert check_image(data)
    for share in (0.3, 0.6, 0.9, 0.99):
        cut = data[: int(share * len(data))]
        assert "does not decode" in refusal(cut)
        assert "does not decode" in refusal(cut + b"\xff\xd9")


def test_a_jpeg_that_lost_its_last_scans_is_not_whole() -> None:
    data = JPEGS["progressive"]
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    tables = [data.rfind(b"\xff\xc4", 0, scan) for scan in scans]
    assert len(scans) == 10
    for table in tables[1:]:
        assert "scans are missing" in refusal(data[:table] + b"\xff\xd9")


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS.keys())
def test_sixty_damaged_bytes_in_a_jpeg_are_seen(data: bytes) -> None:
    # Damage that could have been written so cannot be seen: docs/datasets.md says how often.
    draw, seen, tried = random.Random(1), 0, 40
    begins = data.index(b"\xff\xda") + 20
    for _ in range(tried):
        damaged = bytearray(data)
        for place in draw.sample(range(begins, len(data) - 2), 60):
            damaged[place] ^= 255
        try:
            check_image(bytes(damaged))
        except BadImage:
            seen += 1
    assert seen == tried


def test_a_missing_pixel_of_any_format_is_seen() -> None:
    picture = Image.fromarray(PIXELS)
    tiff = encoded(picture, "TIFF")
    assert whole_image(tiff).size == (SIDE, SIDE)
    # The tag of the height (257), a SHORT or LONG: another 8 rows that no strip holds.
    taller = tiff.replace(
        struct.pack("<HHII", 257, 4, 1, SIDE), struct.pack("<HHII", 257, 4, 1, 72)
    )
    taller = taller.replace(
        struct.pack("<HHIHH", 257, 3, 1, SIDE, 0), struct.pack("<HHIHH", 257, 3, 1, 72, 0)
    )
    assert taller != tiff
    assert "does not decode" in refusal(taller)
    gif = encoded(picture, "GIF")
    assert gif[-2:] == b"\0;" and check_image(gif)
    # The frame ends early: a whole stream of LZW for its first rows alone.
    small = encoded(picture.crop((0, 0, SIDE, 30)), "GIF")
    longer = small[:8] + struct.pack("<H", SIDE) + small[10:]
    at = longer.rindex(b"\x2c\0\0\0\0") + 7
    longer = longer[:at] + struct.pack("<H", SIDE) + longer[at + 2 :]
    assert "does not decode" in refusal(longer)
    bmp = encoded(picture, "BMP")
    assert "does not decode" in refusal(bmp[:22] + struct.pack("<i", 80) + bmp[26:])
    plain = b"P2 64 64 255 " + b" ".join(str(one).encode() for one in PIXELS[..., 0].ravel())
    assert check_image(plain)
    assert "does not decode" in refusal(plain[:-900])


def test_whatever_a_decoder_says_of_damage_is_a_sentence() -> None:
    draw = random.Random(1)
    picture = Image.open(io.BytesIO(figure(5, (120, 90)))).convert("RGB")
    for kind in ("AVIF", "WEBP", "JPEG2000", "GIF", "TIFF"):
        whole = encoded(picture, kind)
        for _ in range(40):
            damaged = bytearray(whole)
            at = draw.randrange(len(whole))
            damaged[at : at + 60] = draw.randbytes(min(60, len(whole) - at))
            # Not all of it can be seen, but nothing else may come out.
            with suppress(BadImage):
                check_image(bytes(damaged))


GRAY = np.asarray(Image.open(io.BytesIO(figure(3))).convert("L"))
UNKNOWN = {
    "32 bits": encoded(Image.fromarray(GRAY.astype(np.int32) * 1000), "TIFF"),
    "16 bits with a sign": encoded(Image.fromarray(GRAY.astype(np.int16)), "TIFF"),
    "floats from 0 to 1": encoded(Image.fromarray((GRAY / 255).astype(np.float32)), "TIFF"),
    "12 of 16 bits": encoded(Image.fromarray(GRAY.astype(np.uint16) * 16), "PNG"),
    "8 of 16 bits": encoded(Image.fromarray(GRAY.astype(np.uint16)), "TIFF"),
}


@pytest.mark.parametrize("data", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_an_unknown_range_is_refused(data: bytes) -> None:
    assert "whose range is unknown" in refusal(data)


def test_a_known_range_is_kept() -> None:
    known = {
        "16 bits": encoded(Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG"),
        "a pgm up to 4095": b"P5 120 90 4095\n"
        + (GRAY * 4095.0 / 255).round().astype(">u2").tobytes(),
    }
    for name, data in known.items():
        shown, _ = over_white(whole_image(data))
        assert np.abs(np.asarray(shown.convert("L")).astype(int) - GRAY).max() <= 1, name


FLAT = {
    **{mode: encoded(Image.new(mode, (64, 64)), "PNG") for mode in ("RGB", "L", "P", "1", "LA")},
    "white": encoded(Image.new("RGB", (64, 64), "white"), "PNG"),
    "a jpeg": encoded(Image.new("RGB", (64, 64), (10, 200, 30)), "JPEG"),
    "nothing but glass": encoded(Image.new("RGBA", (64, 64), (5, 9, 200, 0)), "PNG"),
    "drawn in white": encoded(
        Image.merge("LA", [Image.new("L", (64, 64), 255), Image.fromarray(PIXELS[..., 0])]), "PNG"
    ),
    "drawn under glass": encoded(
        Image.fromarray(np.dstack((PIXELS, np.zeros((SIDE, SIDE), np.uint8)))), "PNG"
    ),
    "a shade nobody sees": encoded(Image.fromarray(PIXELS[..., 0] // 128 + 200), "PNG"),
}


@pytest.mark.parametrize("data", FLAT.values(), ids=FLAT.keys())
def test_one_flat_colour_is_no_figure(data: bytes) -> None:
    assert "one flat colour" in refusal(data)
    assert whole_image(data).size == (64, 64), "for a control without an image it is one"
    assert whole_image(shown_image(data)).size == (64, 64), "and for who shows it to a model"


def test_what_somebody_shows_to_a_model_is_whole_and_not_too_long() -> None:
    assert shown_image(encoded(Image.new("RGB", (1, 1)), "PNG"))
    with pytest.raises(BadImage, match="over 200 times"):
        shown_image(encoded(Image.new("RGB", (1, 201)), "PNG"))
    with pytest.raises(BadImage, match="does not decode"):
        shown_image(FLAT["a jpeg"][:-40])
