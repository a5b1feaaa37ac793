"""A prompt as the model reads it: a token id, a position and perhaps a piece of an image a place.

Images come from anybody: they are decoded under a limit that is checked on the header, and what
cannot be used is refused with a sentence. Where their tokens go is decided by the parts of the
prompt alone, never by token ids. How places are numbered is for the model's family to say.
"""

import hashlib
import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from visual_r1.data.images import BadImage, over_white, whole_image
from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.families.family import ImagePreparer, PreparedImage
from visual_r1.engine.types import ImagePart, InvalidRequest, Prompt, TextPart

CACHED_BYTES = 256 * 2**20
"""Prepared images kept for the next call: a training step sees the images it sampled from."""


@dataclass(frozen=True)
class Layout:
    """A checked prompt of T places."""

    tokens: np.ndarray
    """int64 [T]; the image token's id where an image stands."""
    positions: np.ndarray
    """int64 [axes, T]."""
    is_image: np.ndarray
    """bool [T]; true where an image part stands, whatever ids the text parts hold."""
    images: tuple[PreparedImage, ...]
    next_position: int
    """Where text would go on, on every axis."""

    @property
    def length(self) -> int:
        """Places T."""
        return len(self.tokens)

    def up_to(self, places: int) -> "Layout":
        """The first `places` places, which hold all images."""
        return self._cut(slice(None, places), self.images)

    def behind(self, places: int) -> "Layout":
        """What follows the first `places` places, which hold all images."""
        return self._cut(slice(places, None), ())

    def _cut(self, kept: slice, images: tuple[PreparedImage, ...]) -> "Layout":
        return replace(
            self,
            tokens=self.tokens[kept],
            positions=self.positions[:, kept],
            is_image=self.is_image[kept],
            images=images,
        )


@dataclass
class _CachedImage:
    """An image that is prepared, or being so."""

    ahead: bool
    """Whether nobody has asked for it yet."""
    made: Future[PreparedImage] = field(default_factory=Future[PreparedImage])
    bytes: int = 0


class ImageReader:
    """Decodes and prepares images, keeping the latest ones. On any thread: an image that another
    one is at is waited for."""

    def __init__(self, prepare: ImagePreparer, max_pixels: int) -> None:
        """`prepare` is the model's own; `max_pixels` bounds the decoded size."""
        self._prepare = prepare
        self._max_pixels = max_pixels
        self._guard = threading.Lock()
        self._cache: OrderedDict[bytes, _CachedImage] = OrderedDict()
        self._cached_bytes = self._ahead_bytes = 0

    def read(self, part: ImagePart) -> PreparedImage:
        """Raises `InvalidRequest` when the image is damaged, too large, or of another size."""
        image = self._prepared(part.data, ahead=False)
        if part.expected_tokens is not None and part.expected_tokens != image.tokens:
            raise InvalidRequest(
                f"the image takes {image.tokens} tokens with this model, and expected_tokens says "
                f"{part.expected_tokens}; send {image.tokens}, or leave it out to have it counted."
            )
        return image

    def read_ahead(self, part: ImagePart) -> None:
        """Prepare an image that will be asked for, unless half the room is full of such.

        What is wrong with it is said when it is read.
        """
        if self._ahead_bytes < CACHED_BYTES // 2:
            with suppress(InvalidRequest):
                self._prepared(part.data, ahead=True)

    def _prepared(self, data: bytes, *, ahead: bool) -> PreparedImage:
        digest = hashlib.blake2b(data, digest_size=16).digest()
        with self._guard:
            kept = self._cache.get(digest)
            is_new = kept is None
            if kept is None:
                kept = self._cache[digest] = _CachedImage(ahead)
            self._cache.move_to_end(digest)
            if kept.ahead and not ahead:
                kept.ahead = False
                self._ahead_bytes -= kept.bytes
        made = kept.made
        try:
            if is_new:
                try:
                    image = self._prepare_pixels(digest, self._decode(data))
                except BaseException as error:
                    with self._guard:
                        if self._cache.get(digest) is kept:
                            del self._cache[digest]
                    made.set_exception(error)
                    raise
                self._count(digest, kept, image.patches.nbytes)
                made.set_result(image)
            return made.result()
        finally:
            # What was raised holds this frame, and would hold itself and its pixels through them.
            del kept, made

    def _decode(self, data: bytes) -> Image.Image:
        """RGB pixels, transparency over white as in Qwen's own tools: black lines stay seen.

        By the rule for the figures of a dataset: every pixel must have been in the file.
        """
        try:
            image, _ = over_white(whole_image(data, ("PNG", "JPEG"), self._max_pixels))
        except BadImage as error:
            raise InvalidRequest(
                f"an image of {len(data)} bytes cannot be used, and must be a whole PNG or JPEG: "
                f"{error}"
            ) from error
        return image.convert("RGB")

    def _prepare_pixels(self, digest: bytes, pixels: Image.Image) -> PreparedImage:
        try:
            return self._prepare(digest, pixels)
        except ValueError as error:
            raise InvalidRequest(
                f"an image of {pixels.width} x {pixels.height} pixels cannot be prepared: {error}"
            ) from error

    def _count(self, digest: bytes, kept: _CachedImage, size: int) -> None:
        """It takes room from now on; the oldest ones go."""
        with self._guard:
            if self._cache.get(digest) is not kept:
                return
            kept.bytes = size
            self._cached_bytes += size
            self._ahead_bytes += size if kept.ahead else 0
            while self._cached_bytes > CACHED_BYTES and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= oldest.bytes
                self._ahead_bytes -= oldest.bytes if oldest.ahead else 0


def lay_out(base: BaseModel, images: ImageReader, prompt: Prompt) -> Layout:
    """Check a prompt and number its places.

    Raises `InvalidRequest` when it is empty, too long, holds a token id that the model does not
    have, or an image that cannot be used.
    """
    tokens: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    is_image: list[np.ndarray] = []
    read: list[PreparedImage] = []
    start = length = 0
    for part in prompt:
        if isinstance(part, TextPart):
            ids = np.asarray(part.tokens, np.int64)
            wrong = ids[(ids < 0) | (ids >= base.vocabulary_size)]
            if len(wrong):
                raise InvalidRequest(
                    f"token id {wrong[0]} is out of range: the model has ids 0 to "
                    f"{base.vocabulary_size - 1}."
                )
            where = base.family.text_positions(start, len(ids))
            start += len(ids)
        else:
            image = images.read(part)
            read.append(image)
            ids = np.full(image.tokens, base.processor.image_token_id, np.int64)
            where, start = base.family.image_positions(start, image)
        length += len(ids)
        if length > base.context_length:
            # Before more images are read: they take a hundred times as much once they are.
            raise InvalidRequest(
                f"the prompt has {length} tokens or more, images included, and the model's context "
                f"holds {base.context_length}."
            )
        tokens.append(ids)
        positions.append(where)
        is_image.append(np.full(len(ids), isinstance(part, ImagePart)))
    if length == 0:
        raise InvalidRequest("the prompt is empty; it needs at least one token or image.")
    return Layout(
        tokens=np.concatenate(tokens),
        positions=np.concatenate(positions, axis=1),
        is_image=np.concatenate(is_image),
        images=tuple(read),
        next_position=start,
    )
