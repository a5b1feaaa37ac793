"""Sampler weights: in memory while they are used, on disk for the rest. For the worker thread."""

import uuid
from collections import OrderedDict

from visual_r1.engine.compute.compute import Compute, FrozenWeights
from visual_r1.engine.server.sessions import (
    BaseModelWeights,
    CheckpointWeights,
    UnnamedWeights,
    WeightsKey,
)
from visual_r1.engine.store.store import Store
from visual_r1.engine.store.tensors import read_tensors, size_of, write_tensors
from visual_r1.engine.types import InvalidRequest, LoraSpec
from visual_r1.errors import StorageError

KEPT_IN_MEMORY = 8
"""Adapters kept ready for sampling; a training loop uses one at a time."""


class WeightsCache:
    """Frozen weights by what a sampler points to; the least recently used ones leave memory."""

    def __init__(self, compute: Compute, store: Store) -> None:
        self._compute = compute
        self._store = store
        self._frozen: OrderedDict[WeightsKey, FrozenWeights] = OrderedDict()
        self._unnamed: dict[WeightsKey, tuple[str, LoraSpec]] = {}

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
        self.drop(key)
        self._unnamed[key] = (name, frozen.spec)
        self._keep(key, frozen)

    def drop(self, key: WeightsKey) -> None:
        """Let go of the weights: those of a checkpoint in memory, those without a name on disk too.

        What is not there is no error.
        """
        self._frozen.pop(key, None)
        name, _ = self._unnamed.pop(key, (None, None))
        if name is not None:
            self._store.ephemeral.drop(name)

    def get(self, key: WeightsKey) -> FrozenWeights | None:
        """The weights to sample with; None is the base model.

        Raises `InvalidRequest` when they are gone, `StorageError` when they cannot be read.
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
            spec, file = record.spec, self._store.home.state_file(key.path)
        elif key in self._unnamed:
            name, spec = self._unnamed[key]
            self._store.ephemeral.use(name)
            file = self._store.ephemeral.file(name)
        else:
            raise InvalidRequest("the weights of this sampler are gone: its session is over.")
        if key not in self._frozen:
            self._keep(key, self._compute.frozen_from(spec, read_tensors(file)))
        self._frozen.move_to_end(key)
        return self._frozen[key]

    def _keep(self, key: WeightsKey, frozen: FrozenWeights) -> None:
        self._frozen[key] = frozen
        while len(self._frozen) > KEPT_IN_MEMORY:
            self._frozen.popitem(last=False)
