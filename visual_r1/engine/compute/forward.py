"""The forward pass: images to features, laid-out prompts to hidden states, these to logprobs.

Each distinct image goes through the vision tower once, however many sequences show it. In training
that holds for the backward pass too: the sequences add up their gradients of an image's features,
and the tower runs again with a graph to send the sum back (`backward_through_tower`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils import checkpoint

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import ROWS, chunks, of_array, split
from visual_r1.engine.compute.cache import ContinuedCache, PromptCache, RecordingCache
from visual_r1.engine.compute.families.family import PreparedImage
from visual_r1.engine.compute.prompts import Layout

Features: TypeAlias = Mapping[bytes, Tensor]
"""Of images by digest: [layers, tokens, width], as the model's family makes them."""

PATCHES_AT_ONCE = {"cpu": 4096, "cuda": 65536}
"""In one run of the vision tower, by kind of device."""

LOGITS_AT_ONCE = 2**25
"""Logits held at a time (128 MiB in float32); more rows are computed in pieces."""


# -- images --------------------------------------------------------------------------------------


def distinct(images: Iterable[PreparedImage]) -> list[PreparedImage]:
    """Each image once, in the order of first appearance."""
    return list({image.digest: image for image in images}.values())


def image_features(base: BaseModel, images: Sequence[PreparedImage]) -> dict[bytes, Tensor]:
    """The features of distinct images, without gradients."""
    features: dict[bytes, Tensor] = {}
    with torch.no_grad():
        for batch in _tower_batches(base, images):
            pieces = split(_run_tower(base, batch), [image.tokens for image in batch], dim=1)
            features.update(zip((image.digest for image in batch), pieces, strict=True))
    return features


def backward_through_tower(
    base: BaseModel, images: Sequence[PreparedImage], gradients: Features
) -> None:
    """Run the tower again, with a graph, and send the features' gradients back through it.

    So the tower's activations are held for one batch of images at a time.
    """
    for batch in _tower_batches(base, [image for image in images if image.digest in gradients]):
        features = _run_tower(base, batch)
        gradient = torch.cat([gradients[image.digest] for image in batch], dim=1)
        features.backward(gradient)  # pyright: ignore[reportUnknownMemberType]


def _tower_batches(
    base: BaseModel, images: Sequence[PreparedImage]
) -> Iterator[Sequence[PreparedImage]]:
    """Images that may share a run of the tower without changing each other's features.

    Equal sizes, and only those whose every matrix product has a multiple of 16 rows an image; the
    others run one by one, which depends on nothing else either.
    """
    by_grid: dict[tuple[int, int], list[PreparedImage]] = {}
    for image in images:
        by_grid.setdefault(image.grid, []).append(image)
    # transformers' vision attention goes image by image, so only the matrix products matter.
    for equal in by_grid.values():
        together = 1
        if equal[0].tokens % ROWS == 0:
            together = PATCHES_AT_ONCE[base.device.type] // equal[0].patches.shape[0]
        yield from chunks(equal, together)


def _run_tower(base: BaseModel, batch: Sequence[PreparedImage]) -> Tensor:
    """Features [layers, sum of tokens, width], with a graph where gradients are on."""
    patches = torch.cat([image.patches for image in batch]).to(base.device, base.dtype)
    grids = torch.tensor([(1, *image.grid) for image in batch], device=base.device)
    return base.family.image_features(base.vision_tower, patches, grids)


# -- text ----------------------------------------------------------------------------------------


def hidden_states(
    base: BaseModel, layouts: Sequence[Layout], features: Features, length: int
) -> Tensor:
    """Final hidden states [B, length, width] of layouts padded on the right to `length`.

    Every layer looks back alone, so the padding behind a sequence is never seen by it and needs no
    mask.
    """
    return _run_text_stack(base, layouts, features, length)


def prompt_states(
    base: BaseModel, layouts: Sequence[Layout], features: Features, length: int
) -> tuple[Tensor, PromptCache]:
    """As `hidden_states`, and what the layers keep: of attention all places, padding included."""
    lengths = torch.tensor([layout.length for layout in layouts], device=base.device)
    recording = RecordingCache(lengths)
    hidden = _run_text_stack(base, layouts, features, length, recording)
    return hidden, recording.recorded(length)


def continued_states(
    base: BaseModel, layouts: Sequence[Layout], prompts: PromptCache, length: int
) -> Tensor:
    """As `hidden_states`, of text that goes on where prompts end: layout r behind prompt r."""
    places = prompts.places
    # Place i of the continuation sees the whole prompt, itself and what lies between.
    unseen = torch.full((length, places + length), -torch.inf, device=base.device)
    mask = torch.triu(unseen, diagonal=places + 1).to(base.dtype)
    mask = mask.expand(len(layouts), 1, -1, -1)
    return _run_text_stack(base, layouts, {}, length, ContinuedCache(prompts), mask)


def _run_text_stack(
    base: BaseModel,
    layouts: Sequence[Layout],
    features: Features,
    length: int,
    cache: Any = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`mask` [B, 1, length, all places], 0 or −inf, is for a cache that holds places already."""
    axes = len(layouts[0].positions)
    tokens = torch.zeros(len(layouts), length, dtype=torch.long)
    positions = torch.zeros(axes, len(layouts), length, dtype=torch.long)
    is_image = torch.zeros(len(layouts), length, dtype=torch.bool)
    for row, layout in enumerate(layouts):
        tokens[row, : layout.length] = of_array(layout.tokens)
        positions[:, row, : layout.length] = of_array(layout.positions)
        is_image[row, : layout.length] = of_array(layout.is_image)
    embeddings = base.embed(tokens.to(base.device))
    further: Mapping[str, Any] = {}
    shown = [features[image.digest] for layout in layouts for image in layout.images]
    if shown:
        together = torch.cat(shown, dim=1).to(embeddings.dtype)
        where = is_image.to(base.device)
        embeddings, further = base.family.with_images(embeddings, where, together)
    output = base.text_stack(
        inputs_embeds=embeddings,
        position_ids=positions.to(base.device),
        attention_mask=mask,
        cache=cache,
        use_cache=cache is not None,
        **further,
    )
    return output.last_hidden_state


# -- log-probabilities ---------------------------------------------------------------------------


def logit_rows(base: BaseModel) -> int:
    """How many rows of logits are held at a time: a multiple of 16 (see `batching`)."""
    return max(ROWS, LOGITS_AT_ONCE // base.vocabulary_size // ROWS * ROWS)


def target_logprobs(base: BaseModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities, float32 [rows, K], of `targets` [rows, K] given `hidden` [rows, width].

    With a large vocabulary the rows are computed in pieces whose logits are not kept for the
    backward pass, but computed again there.
    """
    at_once = logit_rows(base)

    def piece(rows: Tensor, wanted: Tensor) -> Tensor:
        logits = base.unembed(rows).float()
        return torch.log_softmax(logits, dim=-1).gather(-1, wanted)

    if len(hidden) <= at_once:
        return piece(hidden, targets)
    run = cast(Callable[..., Tensor], cast(Any, checkpoint).checkpoint)
    pieces = [
        run(piece, rows, wanted, use_reentrant=False)
        for rows, wanted in zip(split(hidden, at_once), split(targets, at_once), strict=True)
    ]
    return torch.cat(pieces)
