"""Sampler weights: in memory while they are used, on disk for the rest. For the worker thread."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from visual_r1.engine.compute import Compute, FrozenWeights
from visual_r1.engine.requests import InvalidRequest, LoraSpec
from visual_r1.engine.sessions import (
    BaseModelWeights,
    CheckpointWeights,
    EphemeralWeights,
    WeightsKey,
)
from visual_r1.engine.store import Store
from visual_r1.engine.tensor_files import read_tensors, write_tensors

STATE_FILE = "state.safetensors"

KEPT_IN_MEMORY = 8
"""Adapters kept ready for sampling; a training loop uses one at a time."""


class WeightsCache:
    """Frozen weights by what a sampler points to; the least recently used ones leave memory."""

    def __init__(self, compute: Compute, store: Store) -> None:
        self._compute = compute
        self._store = store
        self._frozen: OrderedDict[WeightsKey, FrozenWeights] = OrderedDict()
        self._ephemeral: dict[EphemeralWeights, LoraSpec] = {}

    def add_ephemeral(self, key: EphemeralWeights, frozen: FrozenWeights) -> None:
        """Keep weights that have no name. Raises `StorageError` when the disk refuses them."""
        write_tensors(self._file(key), self._compute.frozen_tensors(frozen))
        self._ephemeral[key] = frozen.spec
        self._keep(key, frozen)

    def drop_ephemeral(self, key: EphemeralWeights) -> None:
        """Forget weights that have no name."""
        self._ephemeral.pop(key, None)
        self._frozen.pop(key, None)
        self._file(key).unlink(missing_ok=True)

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

    def _loader(self, key: CheckpointWeights | EphemeralWeights) -> Callable[[], FrozenWeights]:
        if isinstance(key, EphemeralWeights):
            spec = self._ephemeral.get(key)
            if spec is None:
                raise InvalidRequest(f"the weights of the sampler {key.key} are gone.")
            file = self._file(key)
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

    def _file(self, key: EphemeralWeights) -> Path:
        return self._store.ephemeral / f"{key.key}.safetensors"
