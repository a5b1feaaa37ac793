"""Weights of samplers without a name, on disk: a training loop leaves a set of them every step.

A client cannot say that it needs a sampler no longer, so they stay until their session ends, or
until their room is needed: then those go first that were not sampled from for the longest time,
but none that was made or used in the last ten minutes.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from visual_r1.engine.types import InvalidRequest

EPHEMERAL_BYTES = 16 * 2**30
"""All of them together, where the disk's budget allows so much."""

IN_USE_S = 600.0


@dataclass
class _Kept:
    size_bytes: int
    used_at: float


class EphemeralFiles:
    """The files by key, the least recently used first. Safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        limit_bytes: int = EPHEMERAL_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` is there and empty."""
        self._folder = folder
        self._limit = limit_bytes
        self._clock = clock
        self._guard = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def file(self, key: str) -> Path:
        """Where the weights of that key lie, or are to be written before `add`."""
        return self._folder / f"{key}.safetensors"

    def add(self, key: str) -> None:
        """Take in a file that was written; what is too much then goes."""
        with self._guard:
            self._kept[key] = _Kept(self.file(key).stat().st_size, self._clock())
        excess = self.total_bytes - self._limit
        if excess > 0:
            self.free(excess)

    def use(self, key: str) -> None:
        """Note that they are sampled from. Raises `InvalidRequest` when they are gone."""
        with self._guard:
            kept = self._kept.get(key)
            if kept is None:
                raise InvalidRequest(
                    "the weights of this sampler are gone: its session ended, or they were not "
                    "used for a while and their room on the disk was needed; make a new sampler."
                )
            kept.used_at = self._clock()
            self._kept.move_to_end(key)

    def drop(self, key: str) -> None:
        """Remove them; those that are gone already are no error."""
        with self._guard:
            self._kept.pop(key, None)
        self.file(key).unlink(missing_ok=True)

    def free(self, wanted_bytes: int) -> None:
        """Remove files that are not in use, until so many bytes are free or none is left."""
        while wanted_bytes > 0:
            with self._guard:
                oldest = next(iter(self._kept.items()), None)
            if oldest is None or self._clock() - oldest[1].used_at < IN_USE_S:
                return
            self.drop(oldest[0])
            wanted_bytes -= oldest[1].size_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes of all of them."""
        with self._guard:
            return sum(kept.size_bytes for kept in self._kept.values())
