"""A picture with its patches masked: which, how many, and at the model's own size."""

import io

import numpy as np
import pytest
from PIL import Image

from visual_r1.models.families import ImageGrid
from visual_r1.prompts.images import masked_image, prepare_image

GRID = ImageGrid(patch=16, merge=2, min_pixels=1024, max_pixels=2**20)


def picture(width: int, height: int) -> bytes:
    out = io.BytesIO()
    values = np.random.default_rng(0).integers(40, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(out, format="PNG")
    return out.getvalue()


def hidden_patches(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows, columns = pixels.shape[0] // GRID.patch, pixels.shape[1] // GRID.patch
    patches = pixels.reshape(rows, GRID.patch, columns, GRID.patch, 3)
    return (patches == 0).all(axis=(1, 3, 4))


@pytest.mark.parametrize("size", [(128, 96), (131, 70), (33, 400)])
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_exactly_that_share_of_the_model_s_own_patches_is_black(
    size: tuple[int, int], share: float
) -> None:
    shown = masked_image(prepare_image(picture(*size), 2**20), GRID, share, seed=3)
    assert (shown.width, shown.height) == GRID.resized(*size)
    # Resized already, so that the server does not blend patches into each other.
    assert GRID.resized(shown.width, shown.height) == (shown.width, shown.height)
    hidden = hidden_patches(shown.data)
    assert hidden.sum() == round(share * hidden.size)
    assert GRID.tokens(*size) == GRID.tokens(shown.width, shown.height)


def test_which_ones_is_of_the_seed_alone() -> None:
    image = prepare_image(picture(256, 256), 2**20)
    one, again, other = (masked_image(image, GRID, 0.6, seed) for seed in (1, 1, 2))
    assert one.data == again.data
    assert (hidden_patches(one.data) != hidden_patches(other.data)).any()
    # What is not hidden is as the model gets it unmasked.
    unmasked = masked_image(image, GRID, 0.0, 1)
    with Image.open(io.BytesIO(one.data)) as a, Image.open(io.BytesIO(unmasked.data)) as b:
        differing = (np.asarray(a) != np.asarray(b)).any(axis=2)
    cells = differing.reshape(16, 16, 16, 16).any(axis=(1, 3))
    assert (cells == hidden_patches(one.data)).all()
