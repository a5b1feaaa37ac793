"""Sample requests of the same weights, computed together: they join and leave while others run.

What decodes is a `RunningBatch`, which lives on the worker thread. A turn there takes in who may
start, then some steps, again and again for a tenth of a second; each answer goes to the event loop,
and so to its client, as soon as it is complete.
"""

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from visual_r1.engine.compute.compute import Compute, FrozenWeights
from visual_r1.engine.compute.provenance import ProvenanceTable
from visual_r1.engine.compute.running import STEPS_AT_ONCE, RunningBatch
from visual_r1.engine.server.bursts import SETTLE_S, Bursts, Settling
from visual_r1.engine.server.futures import (
    PROTOBUF,
    Announced,
    Category,
    Pending,
    Reply,
    failure_of,
    told,
)
from visual_r1.engine.server.held import HeldRequests
from visual_r1.engine.server.places import Places
from visual_r1.engine.server.sessions import WeightsKey
from visual_r1.engine.server.waiting import JobsAtWork, SampleJob, WaitingJobs
from visual_r1.engine.server.weights import WeightsCache
from visual_r1.engine.server.wire import encode_sample
from visual_r1.engine.server.worker import Work, Worker
from visual_r1.engine.types import InvalidRequest, SampleOutput
from visual_r1.errors import VisualR1Error
from visual_r1.printing import open_logger

log = open_logger("visual_r1.engine")

TURN_S = 0.1
ALONE_S = 1.0
"""So long is a turn on the worker thread, the second where nobody else waits."""

ANSWERS_EVERY_S = 0.04
"""About how long the steps take between which complete answers leave and requests join."""

MOST_STEPS = 32

SECOND_ROWS = 64
"""Samples that decode in a second batch. It is for clients that have none at work while the first
is full with the long answers of others; once that has ended, the second has all of the rows."""

_CANCELLED = "the request was cancelled by its client."


@dataclass(frozen=True)
class SamplingParts:
    """What all queues share."""

    compute: Compute
    weights: WeightsCache
    worker: Worker
    provenance: ProvenanceTable
    held: HeldRequests
    places: Places
    bursts: Bursts
    images: ThreadPoolExecutor


@dataclass
class _Batch:
    """What decodes with one version of the weights, and whose requests those are, by ticket."""

    weights: FrozenWeights | None
    running: RunningBatch
    beside: RunningBatch | None = None
    """The first batch of these weights, where this is a second one."""
    jobs: dict[int, SampleJob] = field(default_factory=dict[int, SampleJob])
    room: int = 0
    """How many samples more may start here, when it was asked last: that is not for nothing."""

    def look(self) -> None:
        """Ask how much room there is."""
        self.room = self.running.free_rows


class SampleQueue:
    """The requests for one set of weights."""

    def __init__(
        self, key: WeightsKey, parts: SamplingParts, making: Announced | None = None
    ) -> None:
        """`making` is the save that the weights are still to come of: until then all wait."""
        self._key = key
        self._parts = parts
        self._making = making
        self._loop = asyncio.get_running_loop()
        self._settling: Settling | None = None
        """A burst that is not over: until then nothing begins, unless something is at work."""
        # Both the event loop and the worker thread use what follows, up to the batches.
        self._guard = threading.Lock()
        self._waiting = WaitingJobs()
        self._at_work = JobsAtWork()
        self._suspects = WaitingJobs()
        """At work when a turn broke: each starts once nothing else is at work."""
        self._full = False
        """Whether nobody could start beside what is at work, when that was looked at last."""
        # Of the worker thread, and cleared between turns. There are two of the same weights while
        # the first is full, and those of a model's former weights, whose answers are not complete.
        self._batches: list[_Batch] = []
        self._steps = STEPS_AT_ONCE

    # -- on the event loop -----------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing is at work."""
        return not (self._waiting or self._at_work or self._suspects)

    @property
    def shares(self) -> Mapping[str, float]:
        """The clients that have samples at work, or may start some."""
        with self._guard:
            rows = self._at_work.rows.copy()
            # Where nothing is at work there is room, whatever there was in the last turn.
            if not (rows and self._full):
                rows.update(one for one in self._waiting.clients if one not in rows)
            rows.update(self._suspects.clients)
        return {client: count / rows.total() for client, count in rows.items()}

    def add(self, job: SampleJob) -> None:
        """Take a request in."""
        job = self._parts.held.add(job)
        with self._guard:
            self._waiting.add(job)
        self._parts.images.submit(self._read_ahead, job)
        now_s = self._loop.time()
        self._parts.bursts.note(job.client, now_s)
        if self._at_work:
            self._parts.worker.poke(self)
            return
        if self._settling is None:
            self._settling = Settling(self._parts.bursts)
            self._loop.call_later(SETTLE_S, self._settle)
        self._settling.add(job.client, now_s)
        if self._settling.over_at_s <= now_s:
            self._settle()

    def _read_ahead(self, job: SampleJob) -> None:
        """On a thread of its own: while others compute, images are prepared of what waits."""
        with self._guard:
            waits = job in self._waiting
        if waits:
            self._parts.compute.read_ahead(job.request.prompt)

    def _settle(self) -> None:
        """Begin, once the burst is over."""
        if self._settling is None:
            return
        if self._loop.time() < self._settling.over_at_s:
            self._loop.call_at(self._settling.over_at_s, self._settle)
            return
        self._settling = None
        self._parts.worker.poke(self)

    def cancel(self, request_id: str) -> None:
        """Drop a request, since its client gave up on it.

        One at work ends with the next look at what was sampled, see `DeviceRules.check_every`.
        """
        with self._guard:
            job = (
                self._waiting.remove(request_id)
                or self._at_work.remove(request_id)
                or self._suspects.remove(request_id)
            )
        if job is not None:
            self._drop(job)
            job.future.fail(_CANCELLED)

    def drop_client(self, client: str) -> list[Pending]:
        """Drop all requests of a client; returns their futures, which nothing will settle."""
        with self._guard:
            gone = self._waiting.remove_client(client)
            gone += self._at_work.remove_all(client)
            gone += self._suspects.remove_client(client)
        for job in gone:
            self._drop(job)
        return [job.future for job in gone]

    def _drop(self, job: SampleJob) -> None:
        job.request.abandoned.set()
        self._parts.held.release(job)

    def take(self) -> Work | None:
        """A turn, if there is something to do and a place for it."""
        if self.empty and not self._batches:
            return None
        if self._making is not None:
            if not self._making.done.is_set():
                return None
            if self._making.failure is not None:
                self._fail_all(*self._making.failure)
                return None
        if self._settling is not None and not self._at_work:
            return None
        return Work(self._turn, self._done) if self._parts.places.enter(self) else None

    def _done(self, work: Future[None]) -> None:
        failed = failure_of(work, "sampling")
        if failed is not None:
            self._part_with(failed)
        if not self._at_work:
            self._batches.clear()
            self._parts.places.leave(self)

    def _part_with(self, failed: tuple[str, Category]) -> None:
        """One of those at work has broken the turn: each is tried by itself; one alone is it."""
        self._batches.clear()
        with self._guard:
            jobs = self._at_work.remove_all()
            if len(jobs) > 1:
                for job in jobs:
                    self._suspects.add(job)
                return
        for job in jobs:
            job.future.fail(*failed)
            self._parts.held.release(job)

    def _fail_all(self, message: str, category: Category) -> None:
        """There will be no weights to sample with."""
        with self._guard:
            jobs = self._waiting.remove_all()
        for job in jobs:
            job.future.fail(message, category)
            self._parts.held.release(job)

    def _settled(self, job: SampleJob, outcome: Reply | tuple[str, Category]) -> None:
        """A request has its answer, or will get none."""
        with self._guard:
            if self._at_work.remove(job.request_id) is None:
                return  # dropped meanwhile: this answer may be cut short
        if isinstance(outcome, Reply):
            job.future.settle(outcome)
        else:
            job.future.fail(*outcome)
        self._parts.held.release(job)

    # -- on the worker thread --------------------------------------------------------------------

    def _turn(self) -> None:
        began_s = time.monotonic()
        while True:
            self._join()
            self._batches = [batch for batch in self._batches if not batch.running.idle]
            for batch in self._batches:
                if batch.beside is not None and batch.beside.idle:
                    batch.running.rows_at_most = batch.beside.rows_at_most
                    batch.beside = None
            for batch in self._batches:
                self._advance(batch)
            turn_s = TURN_S if self._parts.worker.others_wait else ALONE_S
            # Where all wait for memory that others hold, those are to have the thread.
            nothing_advances = all(batch.running.stalled for batch in self._batches)
            if nothing_advances or time.monotonic() - began_s > turn_s:
                return

    def _join(self) -> None:
        """Take in whoever may start, with the weights as they are now."""
        if not self._waiting and not self._suspects:
            self._full = False
            return
        weights: FrozenWeights | None = None
        known = False
        for batch in self._batches:
            batch.look()
        while (job := self._next()) is not None:
            try:
                if not known:
                    weights, known = self._parts.weights.get(self._key), True
                batch = self._batch_with(weights)
                batch.jobs[batch.running.admit(job.request)] = job
                batch.look()
            except VisualR1Error as error:
                self._publish(job, told(error, "sampling"))

    def _next(self) -> SampleJob | None:
        """Who starts now, if there is room; who may have broken a turn starts alone."""
        newest = [one for one in self._batches if one.weights is self._batches[-1].weights]
        room = not newest or any(one.room > 0 for one in newest)
        room_for_new = room or len(newest) == 1
        if self._parts.places.must_leave(self, self._loop.time()):
            room = room_for_new = False
        job: SampleJob | None = None
        with self._guard:
            if self._suspects and not self._at_work:
                job = self._suspects.take({})
            elif room_for_new and not self._suspects:
                job = self._waiting.take(self._at_work.rows, only_new=not room)
            self._full = not room_for_new
            if job is not None:
                self._at_work.add(job)
        return job

    def _batch_with(self, weights: FrozenWeights | None) -> _Batch:
        """A batch of these weights that has room, or else a new one."""
        newest = [one for one in self._batches if one.weights is weights]
        for batch in newest:
            if batch.room > 0:
                return batch
        opened = _Batch(weights, self._parts.compute.open_batch(weights))
        if newest:
            opened.beside = newest[0].running
            opened.running.rows_at_most = SECOND_ROWS
        self._batches.append(opened)
        return opened

    def _advance(self, batch: _Batch) -> None:
        """Some steps, and what is complete after them."""
        for ticket, job in list(batch.jobs.items()):
            if job.request.abandoned.is_set():
                batch.running.drop(ticket)
                del batch.jobs[ticket]
        # Time of this thread: on a busy machine fewer steps at a time would be slower still.
        began_s = time.thread_time()
        progress = batch.running.advance(self._steps)
        # Twice or half as many the next time: a step with prompts to read says little of the rest.
        faster = time.thread_time() - began_s < ANSWERS_EVERY_S
        self._steps = min(MOST_STEPS, self._steps * 2) if faster else max(1, self._steps // 2)
        for sentence in progress.said:
            log.warning("%s", sentence)
        for answered in progress.answered:
            self._answer(batch.jobs.pop(answered.ticket), answered.output)

    def _answer(self, job: SampleJob, output: SampleOutput | InvalidRequest) -> None:
        if job.request.abandoned.is_set():
            return
        if isinstance(output, InvalidRequest):
            self._publish(job, told(output, "sampling"))
            return
        if job.client:
            prompt = job.request.prompt
            self._parts.provenance.add(job.request_id, prompt, output, record=job.record)
        self._publish(job, Reply(encode_sample(output, job.form), PROTOBUF))

    def _publish(self, job: SampleJob, outcome: Reply | tuple[str, Category]) -> None:
        self._loop.call_soon_threadsafe(self._settled, job, outcome)
