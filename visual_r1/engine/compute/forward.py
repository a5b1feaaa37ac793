"""Laid-out prompts to final hidden states, and hidden states to log-probabilities.

Images to features: the vision tower, once for each distinct image.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils import checkpoint

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import ROWS, chunks, of_array, split
from visual_r1.engine.compute.prompts import Layout, PreparedImage

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


LOGITS_AT_ONCE = 2**25
"""Logits held at a time (128 MiB in float32); more rows are computed in pieces."""


def hidden_states(
    base: BaseModel,
    layouts: Sequence[Layout],
    features: Features,
    length: int,
    cache: Any = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Hidden states [B, length, hidden] of layouts padded on the right to `length`.

    Attention is causal, so the padding behind a sequence is never seen by it and needs no mask. A
    transformers cache, where given, receives keys and values of all places, padding included; one
    that holds places already needs a `mask` [B, 1, length, all places], 0 or −inf.
    """
    tokens = torch.zeros(len(layouts), length, dtype=torch.long)
    positions = torch.zeros(3, len(layouts), length, dtype=torch.long)
    is_image = torch.zeros(len(layouts), length, dtype=torch.bool)
    for row, layout in enumerate(layouts):
        tokens[row, : layout.length] = of_array(layout.tokens)
        positions[:, row, : layout.length] = of_array(layout.positions)
        is_image[row, : layout.length] = of_array(layout.is_image)
    embeddings = base.embed(tokens.to(base.device))
    visual: dict[str, Any] = {}
    shown = [features[image.digest] for layout in layouts for image in layout.images]
    if shown:
        where = is_image.to(base.device)
        together = torch.cat(shown, dim=1).to(embeddings.dtype)
        embeddings = embeddings.masked_scatter(where[..., None], together[0])
        visual = {"visual_pos_masks": where, "deepstack_visual_embeds": list(together[1:])}
    output = base.language_model(
        inputs_embeds=embeddings,
        position_ids=positions.to(base.device),
        attention_mask=mask,
        past_key_values=cache,
        use_cache=cache is not None,
        **visual,
    )
    return output.last_hidden_state


def target_logprobs(base: BaseModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities, float32 [rows, K], of `targets` [rows, K] given `hidden` [rows, width].

    With a large vocabulary the rows are computed in pieces whose logits are not kept for the
    backward pass, but computed again there.
    """
    at_once = max(16, LOGITS_AT_ONCE // base.vocabulary_size // 16 * 16)

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
