"""Sampler weights: in memory while they are used, on disk for the rest. For the worker thread."""

import uuid
from collections import OrderedDict
from dataclasses import dataclass

from visual_r1.engine.compute.compute import Compute, FrozenWeights
from visual_r1.engine.server.sessions import (
    BaseModelWeights,
    CheckpointWeights,
    UnnamedWeights,
    WeightsKey,
)
from visual_r1.engine.store.budget import unwritten
from visual_r1.engine.store.records import StoredFile
from visual_r1.engine.store.store import Store
from visual_r1.engine.store.tensors import load_state, read_ephemeral, size_of, write_tensors
from visual_r1.engine.types import InvalidRequest, LoraSpec
from visual_r1.hashing import file_digest

KEPT_IN_MEMORY = 8
"""Adapters kept ready for sampling; a training loop uses one at a time."""


@dataclass(frozen=True)
class _Unnamed:
    """Weights without a name: their file, and what was written into it."""

    name: str
    spec: LoraSpec
    file: StoredFile


class WeightsCache:
    """Frozen weights by what a sampler points to; the least recently used ones leave memory."""

    def __init__(self, compute: Compute, store: Store) -> None:
        self._compute = compute
        self._store = store
        self._frozen: OrderedDict[WeightsKey, FrozenWeights] = OrderedDict()
        self._unnamed: dict[WeightsKey, _Unnamed] = {}

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
            written = StoredFile(file.stat().st_size, file_digest(file))
        except OSError as error:
            file.unlink(missing_ok=True)
            raise unwritten(file, error, self._store.home_flag) from error
        self._store.ephemeral.add(name)
        self.drop(key)
        self._unnamed[key] = _Unnamed(name, frozen.spec, written)
        self._keep(key, frozen)

    def drop(self, key: WeightsKey) -> None:
        """Let go of the weights: those of a checkpoint in memory, those without a name on disk too.

        What is not there is no error.
        """
        self._frozen.pop(key, None)
        unnamed = self._unnamed.pop(key, None)
        if unnamed is not None:
            self._store.ephemeral.drop(unnamed.name)

    def get(self, key: WeightsKey) -> FrozenWeights | None:
        """The weights to sample with; None is the base model.

        Raises `InvalidRequest` when they are gone or damaged.
        """
        if isinstance(key, BaseModelWeights):
            return None
        # Asked for also when they are in memory: a checkpoint may have ended or been overwritten.
        if isinstance(key, CheckpointWeights):
            record = self._store.find(key.path)
            if record.created_at.isoformat() != key.version:
                raise InvalidRequest(
                    f"{key.path} was overwritten after this sampler was made: make a new one."
                )
            if key not in self._frozen:
                tensors = load_state(self._store, key.path)
                self._keep(key, self._compute.frozen_from(record.spec, tensors))
        elif (unnamed := self._unnamed.get(key)) is not None:
            self._store.ephemeral.use(unnamed.name)
            if key not in self._frozen:
                tensors = read_ephemeral(self._store.ephemeral.file(unnamed.name), unnamed.file)
                self._keep(key, self._compute.frozen_from(unnamed.spec, tensors))
        else:
            raise InvalidRequest("the weights of this sampler are gone: its session is over.")
        self._frozen.move_to_end(key)
        return self._frozen[key]

    def _keep(self, key: WeightsKey, frozen: FrozenWeights) -> None:
        self._frozen[key] = frozen
        while len(self._frozen) > KEPT_IN_MEMORY:
            self._frozen.popitem(last=False)
