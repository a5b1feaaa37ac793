"""Chats to tensors: tokens, three-axis positions, patches and what the loss looks at."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from recipe.folder import MERGE, PATCH
from recipe.texts import Example
from visual_r1.models.processor import Processor


@dataclass(frozen=True, slots=True)
class Batch:
    """B chats of length L, padded on the right.

    `tokens` and `targets` [B, L] (targets are shifted by one, -100 where nothing is learnt),
    `positions` [3, B, L], `pixels` [B x patches, patch values] and `grids` [B, 3], or None for
    chats without an image.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    pixels: torch.Tensor | None
    grids: torch.Tensor | None


def prompt_tokens(chat: Example, processor: Processor) -> list[int]:
    """The prompt's tokens, with as many image tokens as the figure takes."""
    text = processor.chat(chat.messages)
    tokens = processor.encode(text)
    if chat.template == "scan_only":
        return tokens
    width, height = Image.open(io.BytesIO(chat.problem.images[0])).size
    at = tokens.index(processor.image_token_id)
    return (
        tokens[:at]
        + [processor.image_token_id] * processor.image_tokens(width, height)
        + tokens[at + 1 :]
    )


def positions(tokens: Sequence[int], image_token: int, rows: int, columns: int) -> np.ndarray:
    """Qwen3-VL's positions [3, L]: text counts on, an image spans its grid, text goes on behind it."""
    where = np.zeros((3, len(tokens)), dtype=np.int64)
    position, index = 0, 0
    while index < len(tokens):
        if tokens[index] == image_token:
            span = slice(index, index + rows * columns)
            where[0, span] = position
            where[1, span] = position + np.repeat(np.arange(rows), columns)
            where[2, span] = position + np.tile(np.arange(columns), rows)
            position += max(rows, columns)
            index += rows * columns
        else:
            where[:, index] = position
            position += 1
            index += 1
    return where


def patches(files: Sequence[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches and grids of images of one size, as Qwen2VLImageProcessorPil makes them.

    The sides must be multiples of PATCH * MERGE already. Gives [B x patches, 3 x 2 x PATCH x PATCH]
    scaled to [-1, 1], and the grids [B, 3].
    """
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(f)).convert("RGB")) for f in files])
    count, height, width, _ = pixels.shape
    rows, columns = height // PATCH, width // PATCH
    cut = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    cut = cut.reshape(
        count, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH, 3
    ).transpose(0, 1, 4, 2, 5, 7, 3, 6)
    twice = np.broadcast_to(cut[:, :, :, :, :, :, None], (*cut.shape[:6], 2, PATCH, PATCH))
    flat = twice.reshape(count * rows * columns, -1)
    return torch.from_numpy(flat), torch.tensor([[1, rows, columns]] * count)


def collate(chats: Sequence[Example], processor: Processor) -> Batch:
    """One training batch; all chats with an image, or all without."""
    grid = (4, 4)
    rows = [(prompt_tokens(c, processor), processor.encode(c.response)) for c in chats]
    length = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    pad = processor.tokenizer.pad_token_id
    tokens = np.full((len(rows), length), pad, dtype=np.int64)
    targets = np.full((len(rows), length), -100, dtype=np.int64)
    where = np.zeros((3, len(rows), length), dtype=np.int64)
    for row, (prompt, answer) in enumerate(rows):
        whole = prompt + answer
        tokens[row, : len(whole) - 1] = whole[:-1]
        targets[row, len(prompt) - 1 : len(whole) - 1] = answer
        where[:, row, : len(whole) - 1] = positions(whole[:-1], processor.image_token_id, *grid)
    pixels, grids = None, None
    if chats[0].template != "scan_only":
        pixels, grids = patches([c.problem.images[0] for c in chats])
    return Batch(
        torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(where), pixels, grids
    )
