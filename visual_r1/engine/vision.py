"""Images to features: the vision tower, once for each distinct image."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from visual_r1.engine.base_model import BaseModel
from visual_r1.engine.batching import ROWS, chunks
from visual_r1.engine.images import PreparedImage
from visual_r1.engine.tensors import split

Features: TypeAlias = Mapping[bytes, Tensor]
"""By image digest: [1 + D, tokens, hidden], the tokens' embeddings and D deepstack layers."""

_PATCHES_AT_ONCE = {"cpu": 4096, "cuda": 65536}


def distinct(images: Iterable[PreparedImage]) -> list[PreparedImage]:
    """Each image once, in the order of first appearance."""
    return list({image.digest: image for image in images}.values())


def batches(base: BaseModel, images: Sequence[PreparedImage]) -> Iterator[Sequence[PreparedImage]]:
    """Images that may share a run of the tower without changing each other's features.

    Equal sizes, and only those whose every matrix product has a multiple of 16 rows an image; the
    others run one by one, which depends on nothing else either.
    """
    by_grid: dict[tuple[int, int], list[PreparedImage]] = {}
    for image in images:
        by_grid.setdefault(image.grid, []).append(image)
    for equal in by_grid.values():
        patches = equal[0].patches.shape[0]
        together = 1
        if equal[0].tokens % ROWS == 0:
            together = _PATCHES_AT_ONCE[base.device.type] // patches
        yield from chunks(equal, together)


def run_tower(base: BaseModel, batch: Sequence[PreparedImage]) -> Tensor:
    """Features [1 + D, sum of tokens, hidden] of a batch, with a graph where gradients are on."""
    patches = torch.cat([image.patches for image in batch]).to(base.device, base.dtype)
    grids = torch.tensor([(1, *image.grid) for image in batch], device=base.device)
    output = base.vision_tower(patches, grid_thw=grids)
    return torch.stack([output.pooler_output, *output.deepstack_features])


def image_features(base: BaseModel, images: Sequence[PreparedImage]) -> dict[bytes, Tensor]:
    """The features of distinct images, without gradients."""
    features: dict[bytes, Tensor] = {}
    with torch.no_grad():
        for batch in batches(base, images):
            pieces = split(run_tower(base, batch), [image.tokens for image in batch], dim=1)
            features.update(zip((image.digest for image in batch), pieces, strict=True))
    return features


def backward_through_tower(
    base: BaseModel, images: Sequence[PreparedImage], gradients: Features
) -> None:
    """Run the tower again, with a graph, and send the features' gradients back through it.

    So the tower's activations are held for one batch of images at a time, and each image goes
    through it once however many sequences show it.
    """
    for batch in batches(base, [image for image in images if image.digest in gradients]):
        features = run_tower(base, batch)
        gradient = torch.cat([gradients[image.digest] for image in batch], dim=1)
        features.backward(gradient)  # pyright: ignore[reportUnknownMemberType]
