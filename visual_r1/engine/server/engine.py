"""The engine: its sessions, models and samplers, whatever the way by which requests come in.

What a long-lived engine lets go of, and when:

- A session ends when its client finishes it, or when no heartbeat came for an hour. At once go its
  models (weights, gradients, Adam's moments, the order of their requests), its samplers, their
  requests and what was recorded of their samples, the weights of those without a name, in memory
  and on disk, and the copies in memory of checkpoints that no other open session samples from. Its
  results go a minute later.
- Who was killed sends no heartbeat: after two minutes without one, and without a question for a
  result, sample requests of a session are dropped. Should the client come back, it hears that they
  are gone, upon which the SDK sends them again.
- That it was there is known for another hour. The SDK repeats a POST for five minutes; one that
  comes so late gets its old answer, or the sentence that the session is over.
- A copy of a checkpoint that is asked for again within ten minutes, by the same key, is not made
  again.

What was written down (sessions that made a model, training runs, checkpoints) stays, on disk.
"""

import asyncio
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from tinker import types

from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.compute.provenance import ProvenanceTable
from visual_r1.engine.server.bursts import Bursts
from visual_r1.engine.server.futures import Announced, FutureTable, Pending
from visual_r1.engine.server.held import HELD_BYTES, HeldRequests
from visual_r1.engine.server.models import TrainingModel
from visual_r1.engine.server.places import Places
from visual_r1.engine.server.queue import SampleQueue
from visual_r1.engine.server.sessions import (
    SILENT_FOR_GOOD_S,
    BaseModelWeights,
    CheckpointWeights,
    ClientSession,
    SamplerSession,
    SessionOver,
    Sessions,
    UnknownId,
    WeightsKey,
    new_session_id,
    sampler_id_of,
)
from visual_r1.engine.server.turns import SamplingParts
from visual_r1.engine.server.weights import WeightsCache
from visual_r1.engine.server.worker import Worker
from visual_r1.engine.store.lifetimes import expiry
from visual_r1.engine.store.records import (
    NO_PROJECT,
    CheckpointPath,
    RunRecord,
    SessionEnd,
    SessionRecord,
    checkpoint_path,
    model_id_of,
    parse_path,
)
from visual_r1.engine.store.store import Store
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import StorageError
from visual_r1.printing import open_logger

log = open_logger("visual_r1.engine")

SWEEP_EVERY_S = 15.0
HANG_UP_S = 2.0
"""Whoever still waits for a sample of a session that has ended is told so after this."""
UNHEARD_S = 120.0
"""Samples of a client that sent no heartbeat and asked for no result for so long are for nobody."""
COPIES_KNOWN_FOR = timedelta(minutes=10)


@dataclass(frozen=True)
class _Copy:
    """A copy of a checkpoint that was made under an idempotency key."""

    request: types.CopyWeightsRequest
    path: CheckpointPath
    made_at: datetime


class Engine:
    """Everything that lives as long as the process. Used on the event loop, but for `copy`."""

    def __init__(self, compute: Compute, store: Store, *, held_bytes: int = HELD_BYTES) -> None:
        """`held_bytes` bounds the sample requests that wait or are at work."""
        self.compute = compute
        self.store = store
        self.futures = FutureTable()
        self.sessions = Sessions()
        self.worker = Worker()
        self.weights = WeightsCache(compute, store)
        self.provenance = ProvenanceTable(compute)
        self.download_secret = secrets.token_bytes(32)
        """Signs the URLs of files; those of an earlier process are worth nothing."""
        self.held = HeldRequests(held_bytes)
        self._bursts = Bursts()
        self._images = ThreadPoolExecutor(max_workers=1, thread_name_prefix="images")
        self._sampling = SamplingParts(
            compute,
            self.weights,
            self.worker,
            self.provenance,
            self.held,
            Places(self.worker),
            self._bursts,
            self._images,
        )
        self._models: dict[str, TrainingModel] = {}
        self._queues: dict[WeightsKey, SampleQueue] = {}
        self._making: dict[WeightsKey, Announced] = {}
        """The saves that samplers were announced of before they ran; those that failed stay."""
        self._copying = threading.Lock()
        self._copies: dict[str, _Copy] = {}

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

    def heard_of(self, request_id: str) -> None:
        """Somebody asks for a result: its client lives."""
        session = self.sessions.find(request_id.partition(":")[0])
        if session is not None and not session.over:
            session.last_seen_s = asyncio.get_running_loop().time()

    def heartbeat(self, session_id: str) -> None:
        """Note that a session's client lives. Raises `UnknownId` or `SessionOver`."""
        self.sessions.live(session_id).last_seen_s = asyncio.get_running_loop().time()

    async def finish_session(self, session_id: str, end: SessionEnd) -> None:
        """End a session as its client asks; a second time changes nothing."""
        try:
            session = self.sessions.live(session_id)
        except SessionOver:
            return
        await self._end_session(session, end)

    async def _end_session(self, session: ClientSession, end: SessionEnd) -> None:
        now_s = asyncio.get_running_loop().time()
        session_id = session.record.session_id
        samplers = self.sessions.end(session, end, now_s)
        for model_id in session.model_ids:
            self._models.pop(model_id).end(session.over)
        for future in self._drop_samples(session_id):
            # A client that closes has not hung up yet, and its SDK would log each failure.
            asyncio.get_running_loop().call_later(HANG_UP_S, future.fail, session.over)
        for weights in {one.weights for one in samplers} - self.sessions.weights_in_use():
            self._making.pop(weights, None)
            # Behind what runs now, which may be the save that makes them.
            self.worker.call(partial(self.weights.drop, weights))
        self.worker.call(partial(self.provenance.forget, session_id))
        self.futures.forget_session(session_id, now_s)
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

    def open_sampler(
        self, body: types.CreateSamplingSessionRequest, content: str
    ) -> SamplerSession:
        """Open a sampler, once for each number; `content` is a digest of the request.

        Raises `InvalidRequest`, also where the number stands for another sampler.
        """
        session = self.sessions.live(body.session_id)
        sampler_id = sampler_id_of(body.session_id, body.sampling_session_seq_id)
        known = self.sessions.find_sampler(sampler_id)
        if known is not None and known.content != content:
            raise InvalidRequest(
                f"another sampler was made as {sampler_id}: give this one a number of its own."
            )
        if known is not None:
            return known
        weights = self.weights_key(body.model_path, body.base_model)
        return self.sessions.add_sampler(
            session, SamplerSession(sampler_id, self.compute.model_name, weights, content)
        )

    def weights_key(self, model_path: str | None, base_model: str | None) -> WeightsKey:
        """What a sampler is to sample with. Raises `InvalidRequest` when that is not there."""
        path = None if model_path is None else parse_path(model_path)
        if path is None and base_model is None:
            raise InvalidRequest("give a model_path or a base_model to sample from.")
        if path is not None and path.kind == "external_weights":
            raise InvalidRequest(f"{path} is in an external format; sample from sampler_weights.")
        if base_model is not None:
            self.check_base_model(base_model)
        if path is None:
            return BaseModelWeights()
        record = self.store.find(path)
        self.check_base_model(record.base_model)
        return CheckpointWeights(path, record.created_at.isoformat())

    def queue(self, key: WeightsKey) -> SampleQueue:
        """Where sample requests for those weights wait."""
        if key not in self._queues:
            self._queues[key] = SampleQueue(key, self._sampling, self._making.get(key))
        return self._queues[key]

    def announce(self, key: WeightsKey, request_id: str) -> Announced:
        """Weights that a request is still to make: who samples with them may come before.

        Returns the future of that request, which starts their samples, or fails them.
        """

        def told() -> None:
            if making.failure is None:
                self._making.pop(key, None)
            if (queue := self._queues.get(key)) is not None:
                self.worker.poke(queue)

        making = self._making[key] = Announced(request_id, told=told)
        return making

    def cancel_sample(self, request_id: str) -> None:
        """Drop a sample request, or end it where it is at work."""
        for queue in self._queues.values():
            queue.cancel(request_id)

    def _drop_samples(self, session_id: str) -> list[Pending]:
        """Drop the sample requests of a session, whose futures nothing will settle."""
        queues = list(self._queues.values())
        return [future for queue in queues for future in queue.drop_client(session_id)]

    # -- copies of checkpoints -------------------------------------------------------------------

    def copy(self, request: types.CopyWeightsRequest, key: str | None) -> CheckpointPath:
        """Make a checkpoint again, under a run of its own that is not trained on; once for a key.

        Not on the event loop: it writes. Raises `InvalidRequest`, `StorageError`.
        """
        with self._copying:
            # The sweep, on the event loop, may drop it at any time.
            known = None if key is None else self._copies.get(key)
            if known is not None and known.request != request:
                raise InvalidRequest(
                    f"another copy was asked for under the idempotency key {key!r}: give this one "
                    "a key of its own."
                )
            if known is not None:
                return known.path
            # Before anything is written of its run.
            source = self.store.check(parse_path(request.source_path))
            now = self.store.clock()
            if request.session_id is not None:
                session = self.sessions.live(request.session_id).record
                number = request.model_seq_id or 0
            else:
                project = request.destination_project_id or NO_PROJECT
                session = SessionRecord(new_session_id(), now, project_id=project)
                number = 0
            model_id = model_id_of(session.session_id, number)
            copied = replace(
                source,
                path=checkpoint_path(model_id, source.path.kind, source.path.name),
                created_at=now,
                expires_at=expiry(now, request.ttl_seconds),
                public=False,
            )
            self.store.put_session(session)
            origin = {"copied_from": str(source.path)}
            self.store.add_run(RunRecord(model_id, source.base_model, source.spec, now, origin))
            path = self.store.copy(source.path, copied).path
            if key is not None:
                self._copies[key] = _Copy(request, path, now)
            return path

    # -- for as long as it serves ----------------------------------------------------------------

    def stop_reading_ahead(self) -> None:
        """No more images are prepared of what waits: a process ends when its threads have."""
        self._images.shutdown(wait=False, cancel_futures=True)

    async def keep_sweeping(self) -> None:
        """Again and again, let go of what has expired; until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            await self.sweep()

    async def sweep(self) -> None:
        """Let go of what has expired, by the rules above."""
        now_s = asyncio.get_running_loop().time()
        # Asked anew each time: while an end is written down, another session may be heard of
        # again, or be finished by its client.
        while silent := self.sessions.unheard(now_s, SILENT_FOR_GOOD_S):
            await self._end_session(silent[0], SessionEnd("silent"))
        self.sessions.sweep(now_s)
        for session in self.sessions.unheard(now_s, UNHEARD_S):
            for future in self._drop_samples(session.record.session_id):
                self.futures.forget(future.request_id)
        self.futures.sweep(now_s)
        live = {one.record.session_id for one in self.sessions.all() if not one.over}
        # What a session samples that opens after this runs on the worker after this.
        self.worker.call(partial(self.provenance.sweep, live))
        self.worker.forget(live)
        self._bursts.forget(live)
        for weights in [weights for weights, queue in self._queues.items() if queue.empty]:
            del self._queues[weights]
        known_since = self.store.clock() - COPIES_KNOWN_FOR
        for key, copy in list(self._copies.items()):
            if copy.made_at < known_since:
                del self._copies[key]
        try:
            await asyncio.to_thread(self.store.sweep)
        except StorageError as error:
            # The disk may be away for a while; what has expired is not listed in any case.
            log.error("the engine's folder could not be brought up to date: %s", error)


def text_values(metadata: dict[str, Any] | None) -> dict[str, str]:
    """A client's metadata with every value as text, which is what it gets back."""
    return {key: str(value) for key, value in (metadata or {}).items()}
