"""The forward pass: images to features, laid-out prompts to hidden states, these to logprobs.

Each distinct image goes through the vision tower once, however many sequences show it. In training
that holds for the backward pass too: the sequences add up their gradients of an image's features,
and the sum goes back through the tower (`TowerRuns`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils import checkpoint

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import ROWS, chunks, of_array, split
from visual_r1.engine.compute.cache import PromptCache, PromptReader, RecordingCache
from visual_r1.engine.compute.families.family import PreparedImage
from visual_r1.engine.compute.packing import Packing
from visual_r1.engine.compute.prompts import Layout
from visual_r1.engine.compute.vocabulary import logprobs_of

Features: TypeAlias = Mapping[bytes, Tensor]
"""Of images by digest: [layers, tokens, width], as the model's family makes them."""

LOGITS_AT_ONCE = 2**25
"""Logits held at a time (128 MiB in float32); more rows are computed in pieces."""


# -- images --------------------------------------------------------------------------------------


def distinct(images: Iterable[PreparedImage]) -> list[PreparedImage]:
    """Each image once, in the order of first appearance."""
    return list({image.digest: image for image in images}.values())


class TowerRuns:
    """The vision tower's runs over the images of a pass, each image once.

    Where their graphs are kept, gradients go back through them; else the tower runs again, so that
    its activations are held for one batch of images at a time.
    """

    def __init__(
        self, base: BaseModel, images: Sequence[PreparedImage], *, keeps_graphs: bool
    ) -> None:
        """Run the tower over distinct images."""
        self._base = base
        self._runs: list[tuple[Sequence[PreparedImage], Tensor]] = []
        self.features: dict[bytes, Tensor] = {}
        """Without a graph."""
        with torch.set_grad_enabled(keeps_graphs):
            for batch in _tower_batches(base, images):
                output = run_tower(base, batch)
                self._runs.append((batch, output))
                pieces = split(output.detach(), [image.tokens for image in batch], dim=1)
                names = (image.digest for image in batch)
                self.features.update(zip(names, pieces, strict=True))

    def backward(self, gradients: Features) -> None:
        """Send the features' gradients back through the tower."""
        for batch, output in self._runs:
            if any(image.digest in gradients for image in batch):
                reached = output if output.requires_grad else run_tower(self._base, batch)
                parts = [
                    gradients.get(image.digest, torch.zeros_like(self.features[image.digest]))
                    for image in batch
                ]
                reached.backward(torch.cat(parts, dim=1))  # pyright: ignore[reportUnknownMemberType]


def image_features(base: BaseModel, images: Sequence[PreparedImage]) -> dict[bytes, Tensor]:
    """The features of distinct images, without gradients."""
    return TowerRuns(base, images, keeps_graphs=False).features


def _tower_batches(
    base: BaseModel, images: Sequence[PreparedImage]
) -> Iterator[Sequence[PreparedImage]]:
    """Images that share a run of the tower; where results must not depend on it, only those that
    may: equal sizes, whose every matrix product has a multiple of 16 rows an image. The others run
    one by one, which depends on nothing else either.
    """
    at_once = base.rules.tower_patches
    if not base.rules.independent:
        # Equal sizes side by side: their attention is one call.
        yield from _up_to(sorted(images, key=lambda image: image.grid), at_once)
        return
    by_grid: dict[tuple[int, int], list[PreparedImage]] = {}
    for image in images:
        by_grid.setdefault(image.grid, []).append(image)
    # transformers' vision attention goes image by image, so only the matrix products matter.
    for equal in by_grid.values():
        together = at_once // len(equal[0].patches) if equal[0].tokens % ROWS == 0 else 1
        yield from chunks(equal, together)


def _up_to(images: Sequence[PreparedImage], patches: int) -> Iterator[Sequence[PreparedImage]]:
    """Runs of images with so many patches together, or of one image."""
    chosen: list[PreparedImage] = []
    taken = 0
    for image in images:
        if chosen and taken + len(image.patches) > patches:
            yield chosen
            chosen, taken = [], 0
        chosen.append(image)
        taken += len(image.patches)
    if chosen:
        yield chosen


def run_tower(base: BaseModel, batch: Sequence[PreparedImage]) -> Tensor:
    """Features [layers, sum of tokens, width], with a graph where gradients are on."""
    patches = torch.cat([image.patches for image in batch]).to(base.device, base.dtype)
    grids = torch.tensor([(1, *image.grid) for image in batch], device=base.device)
    return base.family.image_features(base.vision_tower, patches, grids)


# -- text ----------------------------------------------------------------------------------------


def packed_states(
    base: BaseModel, layouts: Sequence[Layout], features: Features, packing: Packing
) -> Tensor:
    """Final hidden states [N, width] of layouts that lie in N places as the packing says.

    Layouts are in its order: roots, then branches.
    """
    axes = len(layouts[0].positions)
    rest = packing.places - packing.used
    dummies = (np.zeros(rest, np.int64), np.zeros((axes, rest), np.int64), np.zeros(rest, bool))
    tokens = np.concatenate([*(layout.tokens for layout in layouts), dummies[0]])
    positions = np.concatenate([*(layout.positions for layout in layouts), dummies[1]], axis=1)
    is_image = np.concatenate([*(layout.is_image for layout in layouts), dummies[2]])
    shown = [features[image.digest] for layout in layouts for image in layout.images]
    embeddings, further = _embedded(base, of_array(tokens)[None], of_array(is_image)[None], shown)
    axes_first = of_array(positions)[:, None]
    return _run_text_stack(base, embeddings, axes_first, **further, packing=packing)[0]


def prompt_states(
    base: BaseModel,
    layouts: Sequence[Layout],
    features: Features,
    length: int,
    reader: PromptReader | None = None,
) -> tuple[Tensor, PromptCache]:
    """Final hidden states [B, length, width] of layouts padded on the right to `length`, and what
    the layers keep: of attention all places, padding included. Without a `reader` by the modules.

    Every layer looks back alone, so the padding behind a sequence is never seen by it and needs no
    mask.
    """
    axes = len(layouts[0].positions)
    tokens = torch.zeros(len(layouts), length, dtype=torch.long)
    positions = torch.zeros(axes, len(layouts), length, dtype=torch.long)
    is_image = torch.zeros(len(layouts), length, dtype=torch.bool)
    for row, layout in enumerate(layouts):
        tokens[row, : layout.length] = of_array(layout.tokens)
        positions[:, row, : layout.length] = of_array(layout.positions)
        is_image[row, : layout.length] = of_array(layout.is_image)
    shown = [features[image.digest] for layout in layouts for image in layout.images]
    embeddings, further = _embedded(base, tokens, is_image, shown)
    if reader is not None:
        return reader(embeddings, positions.to(base.device), further)
    lengths = torch.tensor([layout.length for layout in layouts], device=base.device)
    recording = RecordingCache(lengths)
    hidden = _run_text_stack(base, embeddings, positions, **further, cache=recording)
    return hidden, recording.recorded(length)


def _embedded(
    base: BaseModel, tokens: Tensor, is_image: Tensor, shown: Sequence[Tensor]
) -> tuple[Tensor, Mapping[str, Any]]:
    """Embeddings [B, L, width] of tokens [B, L], and what else the text stack is given; `shown` are
    the features of the images, in the order of rows and places."""
    embeddings = base.embed(tokens.to(base.device))
    if not shown:
        return embeddings, {}
    together = torch.cat(list(shown), dim=1).to(embeddings.dtype)
    return base.family.with_images(embeddings, is_image.to(base.device), together)


def _run_text_stack(
    base: BaseModel, embeddings: Tensor, positions: Tensor, cache: object = None, **further: Any
) -> Tensor:
    """Hidden states [B, L, width] of embeddings at positions [axes, B, L]."""
    output = base.text_stack(
        inputs_embeds=embeddings,
        position_ids=positions.to(base.device),
        attention_mask=None,
        cache=cache,
        use_cache=cache is not None,
        **further,
    )
    return output.last_hidden_state


# -- log-probabilities ---------------------------------------------------------------------------


def logit_rows(base: BaseModel, held: int | None = None) -> int:
    """How many rows of logits are held at a time: a multiple of 16 (see `batching`).

    `held` are the logits that may be; without it as many as the device's rules say.
    """
    held = min(LOGITS_AT_ONCE, base.rules.logits_at_once) if held is None else held
    return max(ROWS, held // base.vocabulary_size // ROWS * ROWS)


def target_logprobs(
    base: BaseModel, hidden: Tensor, targets: Tensor, held: int | None = None
) -> Tensor:
    """Log-probabilities, float32 [rows, K], of `targets` [rows, K] given `hidden` [rows, width].

    With a large vocabulary the rows are computed in pieces whose logits are not kept for the
    backward pass, but computed again there; `held` is as in `logit_rows`.
    """
    at_once = logit_rows(base, held)

    def piece(rows: Tensor, wanted: Tensor) -> Tensor:
        logits = base.unembed(rows)
        if base.dtype == torch.float32:
            return torch.log_softmax(logits, dim=-1).gather(-1, wanted)
        return logprobs_of(logits, wanted)

    if len(hidden) <= at_once:
        return piece(hidden, targets)
    run = cast(Callable[..., Tensor], cast(Any, checkpoint).checkpoint)
    pieces = [
        run(piece, rows, wanted, use_reentrant=False)
        for rows, wanted in zip(split(hidden, at_once), split(targets, at_once), strict=True)
    ]
    return torch.cat(pieces)
