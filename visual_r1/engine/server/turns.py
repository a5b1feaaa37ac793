"""What the worker thread does for the sample requests of one set of weights.

What decodes is a `RunningBatch`. A turn takes in who may start, then some steps, again and again
for a tenth of a second; each answer leaves as soon as it is complete.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from visual_r1.engine.compute.compute import Compute, FrozenWeights
from visual_r1.engine.compute.provenance import ProvenanceTable
from visual_r1.engine.compute.running import STEPS_AT_ONCE, RunningBatch
from visual_r1.engine.server.bursts import Bursts
from visual_r1.engine.server.futures import PROTOBUF, Category, Reply, told
from visual_r1.engine.server.held import HeldRequests
from visual_r1.engine.server.places import Places
from visual_r1.engine.server.sessions import WeightsKey
from visual_r1.engine.server.waiting import OpenJobs, SampleJob
from visual_r1.engine.server.weights import WeightsCache
from visual_r1.engine.server.wire import encode_sample
from visual_r1.engine.server.worker import Worker
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

Outcome = Reply | tuple[str, Category]
"""An answer, or why there is none and whose fault that is."""


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


class SampleTurns:
    """The turns of one set of weights, and what decodes in them. Lives on the worker thread."""

    def __init__(
        self,
        key: WeightsKey,
        parts: SamplingParts,
        jobs: OpenJobs,
        *,
        must_leave: Callable[[], bool],
        publish: Callable[[SampleJob, Outcome], None],
    ) -> None:
        """`must_leave`: whether nobody is to start, since others wait for these weights' place.

        `publish` is given each request that was at work and its outcome.
        """
        self._key = key
        self._parts = parts
        self._jobs = jobs
        self._must_leave = must_leave
        self._publish = publish
        # There are two of the same weights while the first is full, and those of a model's former
        # weights, whose answers are not complete.
        self._batches: list[_Batch] = []
        self._steps = STEPS_AT_ONCE

    @property
    def idle(self) -> bool:
        """Whether nothing is left of any batch."""
        return not self._batches

    def clear(self) -> None:
        """Between turns: let go of all that decodes."""
        self._batches.clear()

    def turn(self) -> None:
        """Take in who may start and decode, for about `TURN_S`."""
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
        if not self._jobs.any_to_start:
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
        if self._must_leave():
            room = room_for_new = False
        return self._jobs.start(room=room, room_for_new=room_for_new)

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
