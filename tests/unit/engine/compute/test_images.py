"""Images on their way to a model: each is prepared once, ahead of time where there is time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import MethodType

import pytest
import torch
from engine_material import FAMILIES, png, words
from PIL import Image

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


@FAMILIES
def test_a_prompt_is_read_ahead_with_all_its_images(compute: Compute) -> None:
    seen: list[ImagePart] = []
    reader = compute._images
    first, second = ImagePart(png(901)), ImagePart(png(902))
    read_ahead = reader.read_ahead
    reader.read_ahead = seen.append  # type: ignore[method-assign]
    try:
        compute.read_ahead((words(1, 4), first, words(2, 4), second))
    finally:
        reader.read_ahead = read_ahead  # type: ignore[method-assign]
    assert seen == [first, second]


@FAMILIES
def test_the_tower_attends_as_its_own_modules_do(compute: Compute) -> None:
    """Which go image by image; equal sizes beside each other, and others between them."""
    base = compute._base
    compute.sample(None, [])  # no adapter is bound
    sides = ((96, 96), (96, 96), (144, 96), (96, 96), (48, 48))
    images = [compute._images.read(ImagePart(png(seed, *side))) for seed, side in enumerate(sides)]
    with torch.no_grad():
        ours = run_tower(base, images)
        equal = run_tower(base, images[:2])
    attentions = [
        module
        for module in base.network.get_submodule(base.family.vision_tower).modules()
        if type(module).__name__.endswith("VisionAttention")
    ]
    assert attentions
    held = [module.forward for module in attentions]
    for module in attentions:
        module.forward = MethodType(type(module).forward, module)
    try:
        with torch.no_grad():
            theirs = run_tower(base, images)
            theirs_equal = run_tower(base, images[:2])
    finally:
        for module, forward in zip(attentions, held, strict=True):
            module.forward = forward
    assert torch.equal(equal, theirs_equal)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
