"""Images: kept as they are, mended, or refused with the reason."""

import io
import struct
import zlib

import pytest
from drawn import figure
from PIL import Image

from visual_r1.data.images import MAX_PIXELS, BadImage, check_image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


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
}


@pytest.mark.parametrize("data", KEPT.values(), ids=KEPT.keys())
def test_what_needs_no_change_is_kept_byte_for_byte(data: bytes) -> None:
    checked = check_image(data)
    assert checked.data == data
    assert (checked.width, checked.height) == (120, 90)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return figure(kind="JPEG", exif=exif)


MENDED = {
    "webp": (figure(kind="WEBP", lossless=True), (120, 90)),
    "gif": (figure(kind="GIF"), (120, 90)),
    "bmp": (figure(kind="BMP"), (120, 90)),
    "tiff": (figure(kind="TIFF"), (120, 90)),
    "cmyk jpeg": (figure(mode="CMYK", kind="JPEG"), (120, 90)),
    "16 bit png": (encoded(Image.new("I;16", (120, 90), 0xFFFF)), (120, 90)),
    "turned by exif": (rotated(), (90, 120)),
}


@pytest.mark.parametrize(("data", "size"), MENDED.values(), ids=MENDED.keys())
def test_what_can_be_mended_becomes_a_png(data: bytes, size: tuple[int, int]) -> None:
    checked = check_image(data)
    image = opened(checked.data)
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", size)
    assert image.getpixel((0, 0)) >= (250, 250, 250)
    assert check_image(checked.data).data == checked.data
    assert check_image(checked.data).pixels == checked.pixels


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
    "thin": (encoded(Image.new("RGB", (8, 4000))), "longer than"),
    "animated gif": (animation(), "animated"),
    "animated png": (
        encoded(
            Image.new("RGB", (40, 40)),
            save_all=True,
            append_images=[Image.new("RGB", (40, 40), "red")],
        ),
        "animated",
    ),
    "pdf": (b"%PDF-1.4\n%\xe2\xe3", "does not decode"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "does not decode"),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD.keys())
def test_what_cannot_serve_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        check_image(data)


def test_the_pixels_digest_sees_through_another_encoding() -> None:
    assert check_image(figure(3)).pixels == check_image(figure(3, mode="RGBA")).pixels
    assert check_image(figure(3)).pixels == check_image(figure(3, kind="BMP")).pixels
    assert check_image(figure(3)).pixels != check_image(figure(4)).pixels
