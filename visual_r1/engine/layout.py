"""A prompt as the model sees it: one token id and one three-dimensional position per place.

Qwen3-VL numbers places in three dimensions (time, height, width): text counts all three up
together, an image of h x w merged patches keeps time and counts rows and columns from where the
text stood, and the text goes on at start + max(h, w).
"""

from dataclasses import dataclass

import numpy as np

from visual_r1.engine.base_model import BaseModel
from visual_r1.engine.images import ImageReader, PreparedImage
from visual_r1.engine.requests import InvalidRequest, Prompt, TextPart


@dataclass(frozen=True)
class Layout:
    """A checked prompt of T places."""

    tokens: np.ndarray
    """int64 [T]; the image token's id where an image stands."""
    positions: np.ndarray
    """int64 [3, T]: time, height, width."""
    is_image: np.ndarray
    """bool [T]; true where an image part stands, whatever ids the text parts hold."""
    images: tuple[PreparedImage, ...]
    next_position: int
    """Where text would go on, in all three dimensions."""

    @property
    def length(self) -> int:
        """Places T."""
        return len(self.tokens)


def lay_out(base: BaseModel, images: ImageReader, prompt: Prompt) -> Layout:
    """Check a prompt and number its places.

    Raises `InvalidRequest` when it is empty, too long, holds a token id that the model does not
    have, or an image that cannot be used.
    """
    tokens: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    is_image: list[np.ndarray] = []
    prepared: list[PreparedImage] = []
    start = 0
    for part in prompt:
        if isinstance(part, TextPart):
            ids = _token_ids(part, base.vocabulary_size)
            count = len(ids)
            tokens.append(ids)
            positions.append(np.tile(np.arange(start, start + count), (3, 1)))
            start += count
        else:
            image = images.prepare(part)
            count = image.tokens
            prepared.append(image)
            tokens.append(np.full(count, base.processor.image_token_id, np.int64))
            down, across = (side // base.merge_size for side in image.grid)
            positions.append(_image_positions(start, down, across))
            start += max(down, across)
        is_image.append(np.full(count, not isinstance(part, TextPart)))
    length = sum(len(ids) for ids in tokens)
    _check_length(length, base.context_length)
    return Layout(
        tokens=np.concatenate(tokens),
        positions=np.concatenate(positions, axis=1),
        is_image=np.concatenate(is_image),
        images=tuple(prepared),
        next_position=start,
    )


def _token_ids(part: TextPart, vocabulary_size: int) -> np.ndarray:
    ids = np.asarray(part.tokens, np.int64)
    wrong = ids[(ids < 0) | (ids >= vocabulary_size)]
    if len(wrong):
        raise InvalidRequest(
            f"token id {wrong[0]} is out of range: the model has ids 0 to {vocabulary_size - 1}."
        )
    return ids


def _image_positions(start: int, down: int, across: int) -> np.ndarray:
    rows, columns = np.divmod(np.arange(down * across), across)
    return start + np.stack([np.zeros_like(rows), rows, columns])


def _check_length(length: int, context_length: int) -> None:
    if length == 0:
        raise InvalidRequest("the prompt is empty; it needs at least one token or image.")
    if length > context_length:
        raise InvalidRequest(
            f"the prompt has {length} tokens, images included, and the model's context holds "
            f"{context_length}."
        )
