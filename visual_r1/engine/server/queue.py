"""Sample requests of the same weights, computed together: they join and leave while others run.

Here is what happens on the event loop; what the worker thread does is in `turns`.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future

from visual_r1.engine.server.bursts import SETTLE_S, Settling
from visual_r1.engine.server.futures import Announced, Category, Pending, Reply, failure_of
from visual_r1.engine.server.sessions import WeightsKey
from visual_r1.engine.server.turns import Outcome, SampleTurns, SamplingParts
from visual_r1.engine.server.waiting import OpenJobs, SampleJob
from visual_r1.engine.server.worker import Work


class SampleQueue:
    """The requests for one set of weights. Lives on the event loop."""

    def __init__(
        self, key: WeightsKey, parts: SamplingParts, making: Announced | None = None
    ) -> None:
        """`making` is the save that the weights are still to come of: until then all wait."""
        self._parts = parts
        self._making = making
        self._loop = asyncio.get_running_loop()
        self._settling: Settling | None = None
        """A burst that is not over: until then nothing begins, unless something is at work."""
        self._jobs = OpenJobs()
        self._turns = SampleTurns(
            key, parts, self._jobs, must_leave=self._must_leave, publish=self._publish
        )

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing is at work."""
        return not self._jobs

    @property
    def shares(self) -> Mapping[str, float]:
        """The clients that have samples at work, or may start some."""
        rows = self._jobs.rows
        return {client: count / rows.total() for client, count in rows.items()}

    def add(self, job: SampleJob) -> None:
        """Take a request in."""
        job = self._parts.held.add(job)
        self._jobs.add(job)
        self._parts.images.submit(self._read_ahead, job)
        now_s = self._loop.time()
        self._parts.bursts.note(job.client, now_s)
        if self._jobs.any_at_work:
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
        if self._jobs.waits(job):
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
        job = self._jobs.remove(request_id)
        if job is not None:
            self._drop(job)
            job.future.fail("the request was cancelled by its client.")

    def drop_client(self, client: str) -> list[Pending]:
        """Drop all requests of a client; returns their futures, which nothing will settle."""
        gone = self._jobs.remove_client(client)
        for job in gone:
            self._drop(job)
        return [job.future for job in gone]

    def _drop(self, job: SampleJob) -> None:
        job.request.abandoned.set()
        self._parts.held.release(job)

    def take(self) -> Work | None:
        """A turn, if there is something to do and a place for it."""
        if self.empty and self._turns.idle:
            return None
        if self._making is not None:
            if not self._making.done.is_set():
                return None
            if self._making.failure is not None:
                for job in self._jobs.remove_waiting():  # there will be no weights
                    self._fail(job, self._making.failure)
                return None
        if self._settling is not None and not self._jobs.any_at_work:
            return None
        return Work(self._turns.turn, self._done) if self._parts.places.enter(self) else None

    def _done(self, work: Future[None]) -> None:
        failed = failure_of(work, "sampling")
        if failed is not None:
            self._turns.clear()
            if (job := self._jobs.broken()) is not None:
                self._fail(job, failed)
        if not self._jobs.any_at_work:
            self._turns.clear()
            self._parts.places.leave(self)

    def _fail(self, job: SampleJob, why: tuple[str, Category]) -> None:
        job.future.fail(*why)
        self._parts.held.release(job)

    def _settled(self, job: SampleJob, outcome: Outcome) -> None:
        """A request has its answer, or will get none."""
        if not self._jobs.end(job):
            return  # dropped meanwhile: this answer may be cut short
        if isinstance(outcome, Reply):
            job.future.settle(outcome)
            self._parts.held.release(job)
        else:
            self._fail(job, outcome)

    # -- called on the worker thread -------------------------------------------------------------

    def _must_leave(self) -> bool:
        return self._parts.places.must_leave(self, self._loop.time())

    def _publish(self, job: SampleJob, outcome: Outcome) -> None:
        self._loop.call_soon_threadsafe(self._settled, job, outcome)
