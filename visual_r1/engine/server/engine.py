"""The engine: its sessions, models and samplers, whatever the way by which requests come in."""

import asyncio
import logging
from functools import partial
from typing import Any

from tinker import types

from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.server.futures import FutureTable
from visual_r1.engine.server.models import TrainingModel
from visual_r1.engine.server.queue import SampleQueue
from visual_r1.engine.server.sessions import (
    BaseModelWeights,
    CheckpointWeights,
    ClientSession,
    SamplerSession,
    SessionOver,
    Sessions,
    UnknownId,
    UnnamedWeights,
    WeightsKey,
    new_session_id,
)
from visual_r1.engine.server.weights import WeightsCache
from visual_r1.engine.server.worker import Worker
from visual_r1.engine.store.records import (
    NO_PROJECT,
    CheckpointPath,
    SessionEnd,
    SessionRecord,
    parse_path,
)
from visual_r1.engine.store.store import Store
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import StorageError

log = logging.getLogger("visual_r1.engine")

SWEEP_EVERY_S = 15.0


class Engine:
    """Everything that lives as long as the process. Used on the event loop."""

    def __init__(self, compute: Compute, store: Store) -> None:
        self.compute = compute
        self.store = store
        self.futures = FutureTable()
        self.sessions = Sessions()
        self.worker = Worker()
        self.cache = WeightsCache(compute, store)
        self._models: dict[str, TrainingModel] = {}
        self._queues: dict[WeightsKey, SampleQueue] = {}

    # -- sessions --------------------------------------------------------------------------------

    def create_session(self, body: types.CreateSessionRequest) -> ClientSession:
        """Open a session for a client."""
        record = SessionRecord(
            session_id=new_session_id(),
            created_at=self.store.clock(),
            display_name=body.display_name,
            user_metadata=text_values(body.user_metadata),
            project_id=body.project_id or NO_PROJECT,
        )
        return self.sessions.create(record, asyncio.get_running_loop().time())

    def heartbeat(self, session_id: str) -> None:
        """Note that a session's client lives. Raises `UnknownId` or `SessionOver`."""
        self.sessions.heartbeat(session_id, asyncio.get_running_loop().time())

    async def finish_session(self, session_id: str, end: SessionEnd) -> None:
        """End a session as its client asks; a second time changes nothing."""
        try:
            session = self.sessions.live(session_id)
        except SessionOver:
            return
        await self.end_session(session, end)

    async def end_session(self, session: ClientSession, end: SessionEnd) -> None:
        """Free the weights of a session's models and samplers; checkpoints stay."""
        session_id = session.record.session_id
        silent = end.reason == "silent"
        how = "no heartbeat came for an hour" if silent else "its client finished it"
        for model_id in session.model_ids:
            model = self._models.pop(model_id, None)
            if model is not None:
                model.end(f"the session {session_id} is over: {how}.")
        for sampler_id in session.sampler_ids:
            sampler = self.sessions.find_sampler(sampler_id)
            if sampler is not None and isinstance(sampler.weights, UnnamedWeights):
                self.worker.call(partial(self.cache.drop_unnamed, sampler.weights))
        self.sessions.end(session, end)
        self.futures.forget_session(session_id, asyncio.get_running_loop().time())
        try:
            await asyncio.to_thread(self.store.update_session, session.record)
        except StorageError as error:
            # It has ended all the same; a full disk must not keep its client from leaving.
            log.error("the end of the session %s was not written down: %s", session_id, error)

    # -- models ----------------------------------------------------------------------------------

    def model(self, model_id: str) -> TrainingModel:
        """The live model of that id. Raises `UnknownId`."""
        model = self._models.get(model_id)
        if model is None:
            raise UnknownId(
                f"the model {model_id} is not in training here: its session is over or the engine "
                "was restarted; make a training client from its last checkpoint."
            )
        return model

    def find_model(self, model_id: str) -> TrainingModel | None:
        """The live model of that id, if there is one."""
        return self._models.get(model_id)

    def add_model(self, session: ClientSession, model_id: str) -> TrainingModel:
        """Open a model, still without weights. Raises `InvalidRequest` when there is one."""
        if model_id in self._models:
            raise InvalidRequest(f"the model {model_id} was made before.")
        model = TrainingModel(model_id, self.worker, self.compute)
        self._models[model_id] = model
        session.model_ids.append(model_id)
        return model

    def check_base_model(self, name: str) -> None:
        """Raise `InvalidRequest` unless this engine serves that base model."""
        if name != self.compute.model_name:
            raise InvalidRequest(
                f"the model {name!r} is not served by this engine; it offers "
                f"{self.compute.model_name!r} (start another with --model)."
            )

    # -- samplers --------------------------------------------------------------------------------

    def weights_key(self, model_path: str | None, base_model: str | None) -> WeightsKey:
        """What a sampler is to sample with. Raises `InvalidRequest` when that is not there."""
        if model_path is None:
            if base_model is None:
                raise InvalidRequest("give a model_path or a base_model to sample from.")
            self.check_base_model(base_model)
            return BaseModelWeights()
        path = parse_path(model_path)
        if path.kind == "external_weights":
            raise InvalidRequest(f"{path} is in an external format; sample from sampler_weights.")
        if base_model is not None:
            self.check_base_model(base_model)
        return self.checkpoint_key(path)

    def checkpoint_key(self, path: CheckpointPath) -> CheckpointWeights:
        """The present version of a checkpoint's weights. Raises `CheckpointNotFound`."""
        record = self.store.find(path)
        self.check_base_model(record.base_model)
        return CheckpointWeights(path, record.created_at.isoformat())

    def open_sampler(self, body: types.CreateSamplingSessionRequest) -> SamplerSession:
        """Open a sampler, once for each number. Raises `InvalidRequest`."""
        session = self.sessions.live(body.session_id)
        known = self.sessions.find_sampler(
            f"{body.session_id}:sample:{body.sampling_session_seq_id}"
        )
        if known is not None:
            return known
        key = self.weights_key(body.model_path, body.base_model)
        return self.sessions.add_sampler(
            session, body.sampling_session_seq_id, self.compute.model_name, key
        )

    def queue(self, key: WeightsKey) -> SampleQueue:
        """Where sample requests for those weights wait."""
        if key not in self._queues:
            self._queues[key] = SampleQueue(key, self.compute, self.cache, self.worker)
        return self._queues[key]

    def cancel_sample(self, request_id: str) -> None:
        """Drop a sample request that has not started."""
        for queue in self._queues.values():
            queue.cancel(request_id)

    # -- for as long as it serves ----------------------------------------------------------------

    async def sweep(self) -> None:
        """Again and again, let go of what has expired; until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            now_s = asyncio.get_running_loop().time()
            self.futures.sweep(now_s)
            for key in [key for key, queue in self._queues.items() if queue.empty]:
                del self._queues[key]
            try:
                for session in self.sessions.silent(now_s):
                    await self.end_session(session, SessionEnd("silent"))
                await asyncio.to_thread(self.store.sweep)
            except StorageError as error:
                # The disk may be away for a while; what has expired is not listed in any case.
                log.error("the engine's folder could not be brought up to date: %s", error)


def text_values(metadata: dict[str, Any] | None) -> dict[str, str]:
    """A client's metadata with every value as text, which is what it gets back."""
    return {key: str(value) for key, value in (metadata or {}).items()}
