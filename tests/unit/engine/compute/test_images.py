"""Images on their way to a model: each is prepared once, ahead of time where there is time."""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MethodType
from typing import Any, cast

import pytest
import torch
from engine_material import FAMILIES, picture_prompt, png, request, words
from PIL import Image
from torch import Tensor, nn

from visual_r1.engine.compute import prompts
from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.compute.families.family import PreparedImage
from visual_r1.engine.compute.forward import run_tower
from visual_r1.engine.compute.prompts import ImageReader
from visual_r1.engine.types import ImagePart, InvalidRequest

MAX_PIXELS = 2**20
BYTES = 4 * 1000


class Preparing:
    """Prepares an image as 1,000 numbers, when it is let; remembers how often."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.let = threading.Event()
        self.let.set()
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, digest: bytes, image: Image.Image) -> PreparedImage:
        self.began.set()
        assert self.let.wait(60)
        self.sizes.append(image.size)
        return PreparedImage(digest, torch.zeros(1000), (8, 8), (4, 4))


def part(seed: int, side: int = 32) -> ImagePart:
    return ImagePart(png(seed, side, side))


def test_what_was_read_ahead_is_not_prepared_again() -> None:
    preparing = Preparing()
    reader = ImageReader(preparing, MAX_PIXELS)
    reader.read_ahead(part(1))
    reader.read_ahead(part(1))
    assert reader.read(part(1)) is reader.read(part(1))
    assert preparing.sizes == [(32, 32)]


def test_who_wants_an_image_that_another_is_at_waits_for_it() -> None:
    preparing = Preparing()
    reader = ImageReader(preparing, MAX_PIXELS)
    preparing.let.clear()
    with ThreadPoolExecutor(2) as threads:
        ahead = threads.submit(reader.read_ahead, part(1))
        assert preparing.began.wait(60)
        wanted = threads.submit(reader.read, part(1))
        preparing.let.set()
        assert wanted.result(60).tokens == 16 and ahead.result(60) is None
    assert len(preparing.sizes) == 1


def test_a_bad_image_is_said_where_it_is_wanted_and_each_time() -> None:
    reader = ImageReader(Preparing(), MAX_PIXELS)
    cut = ImagePart(png(1)[:-60])
    reader.read_ahead(cut)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="must be a whole PNG or JPEG"):
            reader.read(cut)


def test_as_many_as_half_the_room_holds_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """More would push each other out before anybody has asked for them."""
    monkeypatch.setattr(prompts, "CACHED_BYTES", 4 * BYTES)
    preparing = Preparing()
    reader = ImageReader(preparing, MAX_PIXELS)
    for seed in range(5):
        reader.read_ahead(part(seed))
    assert len(preparing.sizes) == 2
    for seed in range(4):
        reader.read(part(seed))
    assert len(preparing.sizes) == 4
    reader.read_ahead(part(5))
    assert len(preparing.sizes) == 5, "those that somebody asked for wait no more"


def test_a_prompt_is_read_ahead_with_all_its_images(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ImagePart] = []
    monkeypatch.setattr(ImageReader, "read_ahead", lambda _, one: seen.append(one))
    first, second = ImagePart(png(901)), ImagePart(png(902))
    compute.read_ahead((words(1, 4), first, words(2, 4), second))
    assert seen == [first, second]


@FAMILIES
def test_the_tower_attends_as_its_own_modules_do(compute: Compute) -> None:
    """Which go image by image; equal sizes beside each other, and others between them."""
    base = compute._base
    compute.sample(None, [request(picture_prompt(1), max_tokens=1)])  # no adapter is at work
    sides = ((96, 96), (96, 96), (144, 96), (96, 96), (48, 48))
    mixed = [compute._images.read(ImagePart(png(n, *side))) for n, side in enumerate(sides)]
    modules = cast("Iterable[nn.Module]", cast(Any, base.vision_tower).modules())
    attentions = [one for one in modules if type(one).__name__.endswith("VisionAttention")]
    assert attentions

    def features(images: Sequence[PreparedImage]) -> tuple[Tensor, Tensor]:
        """And the gradient of their sum of squares by the patches."""
        patches = [one.patches.clone().requires_grad_() for one in images]
        shown = [replace(one, patches=p) for one, p in zip(images, patches, strict=True)]
        found = run_tower(base, shown)
        found.square().sum().backward()
        return found.detach(), torch.cat([p.grad for p in patches if p.grad is not None])

    ours = features(mixed), features(mixed[:2])
    with pytest.MonkeyPatch.context() as patch:
        for one in attentions:
            patch.setattr(one, "forward", MethodType(type(one).forward, one))
        theirs = features(mixed), features(mixed[:2])
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert torch.equal(mine, other)
    for mine, other in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
