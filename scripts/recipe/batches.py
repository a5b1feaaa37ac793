"""Chats to tensors: tokens, three-axis positions, patches and what the loss looks at."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from recipe.folder import MERGE, PATCH
from recipe.texts import Chat, PromptTokens


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


def positions(tokens: Sequence[int], image_token: int, rows: int, columns: int) -> np.ndarray:
    """Qwen3-VL's positions [3, L]: text counts on, an image of rows x columns spans its grid.

    Text behind an image goes on at the larger of its sides.
    """
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


def collate(chats: Sequence[Chat], prompts: PromptTokens) -> Batch:
    """One training batch; all chats with an image of one size, or all without."""
    processor = prompts.processor
    tokenized = [(prompts.tokens(chat), processor.encode(chat.response)) for chat in chats]
    length = max(len(prompt) + len(answer) for prompt, answer in tokenized) - 1
    tokens = np.full((len(chats), length), processor.tokenizer.pad_token_id, dtype=np.int64)
    targets = np.full((len(chats), length), -100, dtype=np.int64)
    where = np.zeros((3, len(chats), length), dtype=np.int64)
    pixels, grids = None, None
    rows = columns = 0
    if chats[0].template != "scan_only":
        pixels, grids = patches([chat.problem.images[0] for chat in chats])
        rows, columns = int(grids[0, 1]) // MERGE, int(grids[0, 2]) // MERGE
    for index, (prompt, answer) in enumerate(tokenized):
        inputs = [*prompt, *answer[:-1]]
        tokens[index, : len(inputs)] = inputs
        targets[index, len(prompt) - 1 : len(inputs)] = answer
        where[:, index, : len(inputs)] = positions(inputs, processor.image_token_id, rows, columns)
    return Batch(
        torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(where), pixels, grids
    )
