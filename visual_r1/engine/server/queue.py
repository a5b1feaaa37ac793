"""Sample requests of the same weights, computed together."""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.compute.provenance import ProvenanceTable
from visual_r1.engine.server.futures import PROTOBUF, Pending, Reply, failure_of
from visual_r1.engine.server.sessions import WeightsKey
from visual_r1.engine.server.weights import WeightsCache
from visual_r1.engine.server.wire import ReplyForm, encode_sample
from visual_r1.engine.server.worker import Work, Worker
from visual_r1.engine.types import InvalidRequest, SampleRequest
from visual_r1.errors import VisualR1Error

MAX_ROWS = 512
"""Sampled sequences in one call of the compute side, unless a single request asks for more."""

SETTLE_S = 0.01
SETTLE_AT_MOST_S = 0.25
"""A client sends the requests of a step in a burst: wait for its end, but not for long."""


_CANCELLED = "the request was cancelled by its client."


@dataclass(frozen=True)
class SampleJob:
    """A sample request, the form of its reply, and who waits for it."""

    request: SampleRequest
    form: ReplyForm
    future: Pending
    of_session: bool = False
    """Whether its sequences belong to a session, which may train on them."""
    record: bool = False
    """Whether what is sampled is recorded for that."""

    @property
    def rows(self) -> int:
        """Sequences that it adds to a batch."""
        return max(1, self.request.num_samples)


class SampleQueue:
    """The waiting requests of one set of weights. Lives on the event loop."""

    def __init__(
        self,
        key: WeightsKey,
        compute: Compute,
        weights: WeightsCache,
        worker: Worker,
        provenance: ProvenanceTable,
    ) -> None:
        self._key = key
        self._compute = compute
        self._provenance = provenance
        self._weights = weights
        self._worker = worker
        self._waiting: deque[SampleJob] = deque()
        self._alone: deque[SampleJob] = deque()
        self._at_work: Sequence[SampleJob] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting and not self._alone

    def add(self, job: SampleJob) -> None:
        """Take a request in."""
        self._waiting.append(job)
        self._worker.poke(self)

    def cancel(self, request_id: str) -> None:
        """Drop a request, since its client gave up on it; one at work ends with its next token."""
        for job in list(self._waiting):
            if job.future.request_id == request_id:
                self._waiting.remove(job)
                job.future.fail(_CANCELLED)
        for job in self._at_work:
            if job.future.request_id == request_id:
                job.request.abandoned.set()
                job.future.fail(_CANCELLED)

    async def take(self) -> Work | None:
        """All that waits, up to the row limit, as one call."""
        if self._alone:
            return self._work([self._alone.popleft()])
        waited_s = 0.0
        known = 0
        while known < len(self._waiting) and waited_s < SETTLE_AT_MOST_S:
            known = len(self._waiting)
            await asyncio.sleep(SETTLE_S)
            waited_s += SETTLE_S
        jobs: list[SampleJob] = []
        rows = 0
        while self._waiting and (not jobs or rows + self._waiting[0].rows <= MAX_ROWS):
            rows += self._waiting[0].rows
            jobs.append(self._waiting.popleft())
        if not jobs:
            return None
        return self._work(jobs)

    def _work(self, jobs: Sequence[SampleJob]) -> Work:
        self._at_work = jobs
        return Work(partial(self._run, jobs), partial(self._done, jobs))

    def _run(self, jobs: Sequence[SampleJob]) -> list[Reply | InvalidRequest]:
        """On the worker thread: one call, one result or complaint for each job."""
        weights = self._weights.get(self._key)
        outputs = self._compute.sample(weights, [job.request for job in jobs])
        for job, output in zip(jobs, outputs, strict=True):
            if isinstance(output, InvalidRequest) or job.request.abandoned.is_set():
                continue
            if job.of_session:
                prompt, request_id = job.request.prompt, job.future.request_id
                self._provenance.add(request_id, prompt, output, record=job.record)
        return [
            output
            if isinstance(output, InvalidRequest)
            else Reply(encode_sample(output, job.form), PROTOBUF)
            for job, output in zip(jobs, outputs, strict=True)
        ]

    def _done(self, jobs: Sequence[SampleJob], work: Future[list[Reply | InvalidRequest]]) -> None:
        failed = failure_of(work, "sampling")
        if failed is not None and len(jobs) > 1 and not isinstance(work.exception(), VisualR1Error):
            # One of them may have broken the call (or all of them the memory): try each by itself.
            self._alone.extend(jobs)
            self._worker.poke(self)
            return
        for place, job in enumerate(jobs):
            if failed is not None:
                job.future.fail(*failed)
                continue
            result = work.result()[place]
            if isinstance(result, InvalidRequest):
                job.future.fail(str(result))
            else:
                job.future.settle(result)
