"""Images: kept as they are, mended, or refused with the reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from drawn import figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from visual_r1.data.images import MAX_PIXELS, BadImage, check_image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def turn(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def texts(key: str, value: str, zip: bool = False) -> PngInfo:
    info = PngInfo()
    info.add_text(key, value, zip=zip)
    return info


def flipped(data: bytes, place: int) -> bytes:
    """The same with the bits of one byte turned over."""
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def wide(most: int = 0xFFFF) -> Image.Image:
    """The figure in 16 bits a pixel, white being `most`."""
    gray = np.asarray(opened(figure(mode="L")), np.uint32)
    return Image.fromarray((gray * most // 255).astype(np.uint16))


def lab() -> Image.Image:
    """A white sheet with a black corner."""
    sheet = Image.new("LAB", (120, 90), (255, 128, 128))
    sheet.paste((0, 128, 128), (60, 60, 90, 90))
    return sheet


KEPT = {
    "rgb png": figure(),
    "gray png": figure(mode="L"),
    "black and white png": figure(mode="1"),
    "palette png": figure(mode="P"),
    "opaque rgba png": figure(mode="RGBA"),
    "opaque gray with alpha": figure(mode="LA"),
    "jpeg": figure(kind="JPEG"),
    "gray jpeg": figure(mode="L", kind="JPEG"),
    "upright exif": figure(kind="JPEG", exif=Image.Exif()),
    "a turn that EXIF does not know": figure(kind="JPEG", exif=turn(9)),
    "a picture with a preview behind it": figure(
        kind="MPO", save_all=True, append_images=[Image.new("RGB", (30, 20))]
    ),
    "a colour profile": figure(icc_profile=b"whatever" * 40),
    "some text": figure(pnginfo=texts("made by", "hand" * 20_000)),
}


@pytest.mark.parametrize("data", KEPT.values(), ids=KEPT.keys())
def test_what_needs_no_change_is_kept_byte_for_byte(data: bytes) -> None:
    checked = check_image(data)
    assert checked.data == data
    assert (checked.look.width, checked.look.height) == (120, 90)


MENDED = {
    "webp": (figure(kind="WEBP", lossless=True), (120, 90)),
    "gif": (figure(kind="GIF"), (120, 90)),
    "bmp": (figure(kind="BMP"), (120, 90)),
    "tiff": (figure(kind="TIFF"), (120, 90)),
    "cmyk jpeg": (figure(mode="CMYK", kind="JPEG"), (120, 90)),
    "16 bit png": (encoded(wide()), (120, 90)),
    "16 bit tiff": (encoded(wide(), "TIFF"), (120, 90)),
    "jpeg 2000": (figure(kind="JPEG2000"), (120, 90)),
    "ppm": (figure(kind="PPM"), (120, 90)),
    "lab tiff": (encoded(lab(), "TIFF"), (120, 90)),
    "cmyk with its profile": (figure(mode="CMYK", kind="JPEG", icc_profile=b"ink" * 99), (120, 90)),
    "turned by exif": (figure(kind="JPEG", exif=turn(6)), (90, 120)),
    "a png turned by exif": (figure(exif=turn(8)), (90, 120)),
    "mirrored": (figure(kind="JPEG", exif=turn(2)), (120, 90)),
    "damaged exif": (figure(exif=b"Exif\0\0garbage"), (120, 90)),
    "a wrong checksum over the pixels": (flipped(figure(), -16), (120, 90)),
    "no end": (figure()[:-12], (120, 90)),
    "something behind the end": (figure() + b"PK\x03\x04 an archive", (120, 90)),
    "more text than picture": (figure(pnginfo=texts("novel", "x" * 900_000)), (120, 90)),
    "a megabyte behind a jpeg": (figure(kind="JPEG") + bytes(2**20), (120, 90)),
}


@pytest.mark.parametrize(("data", "size"), MENDED.values(), ids=MENDED.keys())
def test_what_can_be_mended_becomes_a_png(data: bytes, size: tuple[int, int]) -> None:
    checked = check_image(data)
    image = opened(checked.data)
    assert checked.data != data and len(checked.data) < 20_000
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", size)
    assert image.getpixel((0, 0)) >= (250, 250, 250)
    assert check_image(checked.data).data == checked.data
    assert check_image(checked.data).pixels == checked.pixels
    assert not image.info, "a profile or text that belongs to the old file"


def test_transparency_goes_over_white() -> None:
    layer = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    layer.paste((255, 0, 0, 255), (10, 10, 20, 20))
    for data in (encoded(layer), encoded(layer, "WEBP", lossless=True), encoded(layer, "TIFF")):
        image = opened(check_image(data).data)
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert image.getpixel((50, 30)) == (255, 255, 255)
        assert image.getpixel((15, 15)) == (255, 0, 0)
    palette = Image.new("P", (60, 40), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((15, 15), 1)
    data = encoded(palette, transparency=0)
    image = opened(check_image(data).data)
    assert image.getpixel((50, 30)) == (255, 255, 255)
    assert image.getpixel((15, 15)) == (255, 0, 0)


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 10^10 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def animation() -> bytes:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


BAD = {
    "zero bytes": (b"", "empty"),
    "text": (b"this is no image", "does not decode"),
    "html": (b"<!doctype html><html>404", "does not decode"),
    "truncated png": (figure()[:-60], "does not decode"),
    "truncated jpeg": (figure(kind="JPEG")[:-400], "does not decode"),
    "header alone": (figure()[:20], "does not decode"),
    "damaged png": (figure()[:60] + b"\xff" * 50 + figure()[110:], "does not decode"),
    "bomb": (bomb(), f"more than {MAX_PIXELS}"),
    "large": (encoded(Image.new("1", (9000, 8000))), f"more than {MAX_PIXELS}"),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "8 a side"),
    "thin": (encoded(Image.new("RGB", (8, 4000))), "one side over 200 times"),
    "animated gif": (animation(), "animated"),
    "animated png": (
        encoded(
            Image.new("RGB", (40, 40)),
            save_all=True,
            append_images=[Image.new("RGB", (40, 40), "red")],
        ),
        "animated",
    ),
    **{
        f"animated {kind.lower()}": (
            encoded(
                Image.new("RGB", (40, 40)),
                kind,
                save_all=True,
                append_images=[Image.new("RGB", (40, 40), "red")],
            ),
            "animated or has several pages",
        )
        for kind in ("WEBP", "TIFF")
    },
    "pdf": (b"%PDF-1.4\n%\xe2\xe3", "it is a PDF: convert it"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG drawing"),
    "html under a byte order mark": (b"\xef\xbb\xbf<html>", "it is a web page"),
    "a git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha", "git lfs pull"),
    "postscript, which would start a program": (figure(kind="EPS"), "it is PostScript"),
    "floating point": (encoded(Image.new("F", (40, 40)), "TIFF"), "floating-point"),
    "a text bomb": (figure(pnginfo=texts("a", "x" * 9_000_000, zip=True)), "too large"),
    "damaged pixels": (flipped(figure(), -40), "does not decode"),
    "a damaged header": (flipped(figure(), 29), "does not decode"),
    **{
        f"truncated {kind.lower()}": (figure(kind=kind)[:-70], "does not decode")
        for kind in ("GIF", "BMP", "TIFF", "WEBP", "JPEG2000")
    },
    "noise": (bytes(range(256)) * 4, "no format that is known here"),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD.keys())
def test_what_cannot_serve_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        check_image(data)


def test_the_pixels_digest_sees_through_another_encoding() -> None:
    assert check_image(figure(3)).pixels == check_image(figure(3, mode="RGBA")).pixels
    assert check_image(figure(3)).pixels == check_image(figure(3, kind="BMP")).pixels
    assert check_image(figure(3)).pixels != check_image(figure(4)).pixels
