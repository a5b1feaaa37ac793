"""The same figure in another file, and other figures that differ in one label."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from drawn import closest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from visual_r1.data.fingerprint import (
    Look,
    look_of,
    packed,
    same_picture,
    tiles_differ,
    tiles_of,
)
from visual_r1.data.procedural.generator import problem
from visual_r1.data.procedural.raster import png
from visual_r1.data.procedural.sketch import Label, Segment, Sketch

Change = Callable[[Image.Image], Image.Image]


def triangle(label: str = "74", size: tuple[int, int] = (330, 240)) -> Image.Image:
    """A figure as a textbook prints it: thin lines, small labels."""
    image = Image.new("RGB", (size[0] * 2, size[1] * 2), "white")
    draw = ImageDraw.Draw(image)
    draw.line([(80, 400), (560, 400), (200, 90), (80, 400)], fill="black", width=3)
    font = ImageFont.load_default(30)
    for place, text in (((50, 400), "A"), ((570, 390), "B"), ((190, 50), "C"), ((130, 350), label)):
        draw.text(place, text, fill="black", font=font)
    return image.resize(size, Image.Resampling.LANCZOS)


def drawn(label: str) -> Image.Image:
    """The same in the style of the procedural problems."""
    sketch = Sketch(
        (Segment((10, 80), (86, 80)), Segment((86, 80), (30, 12)), Segment((30, 12), (10, 80))),
        (Label(label, 3, 5),),
    )
    return Image.open(io.BytesIO(png(sketch)))


def coloured(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (120, 120), "white")
    ImageDraw.Draw(image).ellipse((30, 30, 90, 90), fill=colour)
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def resized(scale: float, how: Image.Resampling = Image.Resampling.BICUBIC) -> Change:
    return lambda image: image.resize(
        (round(image.width * scale), round(image.height * scale)), how
    )


COPIES: dict[str, tuple[Change, str, dict[str, object]]] = {
    **{f"JPEG {q}": (lambda i: i, "JPEG", {"quality": q}) for q in (30, 50, 75, 95)},
    **{f"WebP {q}": (lambda i: i, "WEBP", {"quality": q}) for q in (30, 80)},
    "palette": (lambda i: i.quantize(32), "PNG", {}),
    "web palette": (lambda i: i.convert("P"), "PNG", {}),
    "grey": (lambda i: i.convert("L"), "PNG", {}),
    **{f"x {s}": (resized(s), "PNG", {}) for s in (0.4, 0.73, 1.3, 2)},
    "x 0.4, Lanczos": (resized(0.4, Image.Resampling.LANCZOS), "PNG", {}),
    "x 0.5, JPEG": (resized(0.5, Image.Resampling.BILINEAR), "JPEG", {"quality": 75}),
    "x 2, JPEG": (resized(2), "JPEG", {"quality": 30}),
}


def agree(one: Image.Image, other: Image.Image) -> bool:
    """What a preparation asks of two pictures."""
    first, second = one.convert("RGB"), other.convert("RGB")
    return (
        closest([look_of(first)], [look_of(second).to_bytes()]) == [0]
        and not tiles_differ([tiles_of(first)], packed([tiles_of(second)]))
        and same_picture(encoded(one), encoded(other))
    )


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("make", [triangle, lambda: drawn("74")], ids=["textbook", "procedural"])
def test_copies_are_found(
    make: Callable[[], Image.Image], copy: tuple[Change, str, dict[str, object]]
) -> None:
    change, kind, options = copy
    image = make()
    with Image.open(io.BytesIO(encoded(change(image), kind, **options))) as other:
        assert agree(image, other.convert("RGB"))
        assert agree(other.convert("RGB"), image)


@pytest.mark.parametrize(("one", "other"), [("74", "14"), ("38", "33"), ("65", "55"), ("90", "96")])
@pytest.mark.parametrize("make", [triangle, drawn])
def test_another_label_is_another_figure(
    make: Callable[[str], Image.Image], one: str, other: str
) -> None:
    assert not same_picture(encoded(make(one)), encoded(make(other)))


def test_a_label_is_seen_through_an_encoder() -> None:
    for make in (triangle, drawn):
        noisy = encoded(make("74"), "JPEG", quality=50)
        assert not same_picture(noisy, encoded(make("14")))
        assert same_picture(noisy, encoded(make("74")))


@given(
    st.integers(-60, 60),
    st.sampled_from([(96, 96), (61, 200), (193, 40), (9, 8), (400, 399)]),
    st.sampled_from([1, 2, 3, 7]),
)
def test_tiles_rule_out_nothing_that_is_the_same(
    shift: int, size: tuple[int, int], stripe: int
) -> None:
    """Edges everywhere, so that a picture that is lighter all over is the same up to the bound."""
    across = np.arange(size[0]) // stripe % 2 * 100 + 70
    base, lighter = (
        Image.fromarray(np.tile(across + change, (size[1], 1)).astype(np.uint8)).convert("RGB")
        for change in (0, shift)
    )
    same = same_picture(encoded(base), encoded(lighter))
    assert same == (abs(shift) <= 40)
    differ = tiles_differ([tiles_of(base)], packed([tiles_of(lighter)]))
    assert differ == (abs(shift) > 41) or min(size) < 9


def test_tiles_of_several_pictures_and_of_other_sizes() -> None:
    one, two = tiles_of(triangle("74")), tiles_of(drawn("74").convert("RGB"))
    moved = tiles_of(drawn("14").convert("RGB"))
    assert tiles_differ([one, two], packed([one, moved]))
    assert not tiles_differ([one, two], packed([one, two]))
    half = tiles_of(resized(0.5)(triangle()))
    assert not tiles_differ([half, two], packed([one, moved]))


def test_colours_of_the_same_brightness_differ() -> None:
    red, green = coloured((255, 0, 0)), coloured((0, 130, 0))
    assert abs(red.convert("L").getpixel((60, 60)) - green.convert("L").getpixel((60, 60))) < 3
    assert not same_picture(encoded(red), encoded(green))
    assert same_picture(encoded(red), encoded(red, "JPEG", quality=30))


def test_another_shape_or_a_tiny_picture_is_no_copy() -> None:
    look = look_of(triangle())
    sizes = [(300, 240), (33, 24), (165, 120), (660, 480), (330, 240)]
    stored = [replace(look, width=w, height=h).to_bytes() for w, h in sizes]
    assert closest([look], stored) == [2, 3, 4]


def test_the_likest_comes_first() -> None:
    look = look_of(triangle())
    worse = look_of(resized(0.4)(triangle()))
    other = look_of(drawn("74").convert("RGB"))
    assert closest([look], [x.to_bytes() for x in (worse, other, look)]) == [2, 0]
    assert closest([look, look], [x.to_bytes() + look.to_bytes() for x in (look, other)]) == [0]


def test_pictures_without_contrast() -> None:
    white, black = Image.new("RGB", (40, 40), "white"), Image.new("RGB", (40, 40))
    assert look_of(white).frequencies == look_of(black).frequencies == (0.0,) * 35
    assert same_picture(encoded(white), encoded(white))
    assert not same_picture(encoded(white), encoded(black))


def test_a_look_survives_its_bytes() -> None:
    look = look_of(triangle())
    assert Look.from_bytes(look.to_bytes()) == look
    assert abs(sum(x * x for x in look.frequencies) - 1) < 0.01


def test_procedural_problems_with_like_figures_stay_apart() -> None:
    """Of 400 drawn problems no two are the same, whatever their questions."""
    pictures = [problem(0, "train", i).images[0] for i in range(400)]
    looks = [look_of(Image.open(io.BytesIO(p)).convert("RGB")) for p in pictures]
    stored = [look.to_bytes() for look in looks]
    close = [(i, j) for i, look in enumerate(looks) for j in closest([look], stored) if j < i]
    assert close
    assert not [(i, j) for i, j in close if same_picture(pictures[i], pictures[j])]
    tiles = [[tiles_of(Image.open(io.BytesIO(p)))] for p in pictures]
    assert all(tiles_differ(tiles[i], packed(tiles[j])) for i, j in close)
    assert all(i in closest([look], stored) for i, look in enumerate(looks))
