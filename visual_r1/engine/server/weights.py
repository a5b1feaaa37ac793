"""Sampler weights: in memory while they are used, on disk for the rest. For the worker thread.

Tensors to and from safetensors files. Nothing is ever unpickled.
"""

import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from visual_r1.engine.compute.compute import Compute, FrozenWeights
from visual_r1.engine.server.sessions import (
    BaseModelWeights,
    CheckpointWeights,
    UnnamedWeights,
    WeightsKey,
)
from visual_r1.engine.store.store import Store
from visual_r1.engine.types import InvalidRequest, LoraSpec
from visual_r1.errors import StorageError


def size_of(tensors: Mapping[str, torch.Tensor]) -> int:
    """About the bytes of a file of these tensors."""
    return sum(tensor.nbytes for tensor in tensors.values())


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write `tensors` to `path` and flush them to disk. Raises `StorageError` when it fails."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(  # pyright: ignore[reportUnknownMemberType]
            contiguous, str(path), metadata={"format": "pt"}
        )
        with path.open("rb") as written:
            os.fsync(written.fileno())
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"could not write {path}: {error}. Free some space on that disk, or start the engine "
            "with another --home; nothing else was changed."
        ) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of `path` into memory. Raises `StorageError` when it cannot be read."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"could not read {path}: {error}. Load another checkpoint of the run."
        ) from error


STATE_FILE = "state.safetensors"

KEPT_IN_MEMORY = 8
"""Adapters kept ready for sampling; a training loop uses one at a time."""


class WeightsCache:
    """Frozen weights by what a sampler points to; the least recently used ones leave memory."""

    def __init__(self, compute: Compute, store: Store) -> None:
        self._compute = compute
        self._store = store
        self._frozen: OrderedDict[WeightsKey, FrozenWeights] = OrderedDict()
        self._unnamed: dict[UnnamedWeights, tuple[str, LoraSpec]] = {}

    def add_unnamed(self, key: UnnamedWeights, frozen: FrozenWeights) -> None:
        """Keep weights that have no name, in place of any of that key.

        Raises `StorageError` when the disk or its budget is full.
        """
        name = uuid.uuid4().hex
        tensors = self._compute.frozen_tensors(frozen)
        self._store.make_room(size_of(tensors))
        file = self._store.ephemeral.file(name)
        try:
            write_tensors(file, tensors)
        except StorageError:
            file.unlink(missing_ok=True)
            raise
        self._store.ephemeral.add(name)
        self.drop_unnamed(key)
        self._unnamed[key] = (name, frozen.spec)
        self._keep(key, frozen)

    def drop_unnamed(self, key: UnnamedWeights) -> None:
        """Forget weights that have no name."""
        name, _ = self._unnamed.pop(key, (None, None))
        self._frozen.pop(key, None)
        if name is not None:
            self._store.ephemeral.drop(name)

    def get(self, key: WeightsKey) -> FrozenWeights | None:
        """The weights to sample with; None is the base model.

        Raises `InvalidRequest` when they are gone, `StorageError` when they cannot be read.
        """
        if isinstance(key, BaseModelWeights):
            return None
        load = self._loader(key)
        if key not in self._frozen:
            self._keep(key, load())
        self._frozen.move_to_end(key)
        return self._frozen[key]

    def _loader(self, key: CheckpointWeights | UnnamedWeights) -> Callable[[], FrozenWeights]:
        if not isinstance(key, CheckpointWeights):
            if key not in self._unnamed:
                raise InvalidRequest("the weights of this sampler are gone: its session is over.")
            name, spec = self._unnamed[key]
            self._store.ephemeral.use(name)
            file = self._store.ephemeral.file(name)
        else:
            record = self._store.find(key.path)
            if record.created_at.isoformat() != key.version:
                raise InvalidRequest(
                    f"{key.path} was overwritten after this sampler was made: make a new one."
                )
            spec, file = record.spec, self._store.folder(key.path) / STATE_FILE
        return lambda: self._compute.frozen_from(spec, read_tensors(file))

    def _keep(self, key: WeightsKey, frozen: FrozenWeights) -> None:
        self._frozen[key] = frozen
        while len(self._frozen) > KEPT_IN_MEMORY:
            self._frozen.popitem(last=False)
