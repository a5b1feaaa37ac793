"""Sample requests of the same weights, computed together: they join and leave while others run.

What decodes is a `RunningBatch`, which lives on the worker thread. The event loop keeps the requests
that wait and knows those that are at work. A turn on the worker thread takes in who may start, then
takes step after step until it is somebody else's turn or somebody waits to join, and hands each
answer to the event loop as soon as it is complete.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from visual_r1.engine.compute.compute import Compute, FrozenWeights
from visual_r1.engine.compute.provenance import ProvenanceTable
from visual_r1.engine.compute.running import RunningBatch
from visual_r1.engine.server.futures import PROTOBUF, Category, Reply, failure_of, told
from visual_r1.engine.server.held import HeldRequests
from visual_r1.engine.server.places import Places
from visual_r1.engine.server.sessions import WeightsKey
from visual_r1.engine.server.waiting import SampleJob, WaitingJobs
from visual_r1.engine.server.weights import WeightsCache
from visual_r1.engine.server.wire import encode_sample
from visual_r1.engine.server.worker import Work, Worker
from visual_r1.engine.types import InvalidRequest, SampleOutput
from visual_r1.errors import VisualR1Error
from visual_r1.printing import open_logger

log = open_logger("visual_r1.engine")

SETTLE_S = 0.004
SETTLE_AT_MOST_S = 0.1
"""A client sends the requests of a step in a burst. What starts at one time is computed together,
so where nothing runs yet the end of the burst is waited for, but not for long."""

TURN_S = 0.1
"""A turn on the worker thread ends with the first step after so long."""

ANSWER_WITHIN_S = 0.02
"""So many steps are taken at a time as last this long: then what is complete leaves."""

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


@dataclass
class _Batch:
    """What decodes with one version of the weights, and whose requests those are, by ticket."""

    weights: FrozenWeights | None
    running: RunningBatch
    jobs: dict[int, SampleJob] = field(default_factory=dict[int, SampleJob])


class SampleQueue:
    """The requests for one set of weights. Lives on the event loop, but for `_turn` and below."""

    def __init__(self, key: WeightsKey, parts: SamplingParts) -> None:
        self._key = key
        self._parts = parts
        self._waiting = WaitingJobs()
        self._at_work: dict[str, SampleJob] = {}
        self._suspects: list[SampleJob] = []
        self._free_rows = parts.compute.most_rows
        self._settling = False
        self._last_arrival_s = self._first_arrival_s = 0.0
        # Of the worker thread. There are several while requests of a model that published new
        # weights are still at work with the old ones.
        self._batches: list[_Batch] = []

    # -- on the event loop -----------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing is at work."""
        return not (self._waiting or self._at_work or self._suspects)

    @property
    def shares(self) -> Mapping[str, float]:
        """The clients that have samples at work, or that can start some."""
        rows = self._rows_at_work()
        if self._free_rows > 0 or not rows:
            rows.update(self._waiting.clients)
        rows.update(job.client for job in self._suspects)
        return {client: count / rows.total() for client, count in rows.items()}

    def add(self, job: SampleJob) -> None:
        """Take a request in."""
        self._waiting.add(self._parts.held.add(job))
        loop = asyncio.get_running_loop()
        self._last_arrival_s = loop.time()
        if self._at_work:
            self._parts.worker.poke(self)
        elif not self._settling:
            self._settling = True
            self._first_arrival_s = self._last_arrival_s
            loop.call_later(SETTLE_S, self._settle)

    def _settle(self) -> None:
        """Begin, once no request has come for a moment."""
        loop = asyncio.get_running_loop()
        left_s = min(
            self._last_arrival_s + SETTLE_S, self._first_arrival_s + SETTLE_AT_MOST_S
        ) - loop.time()
        if left_s > 0:
            loop.call_later(left_s, self._settle)
            return
        self._settling = False
        self._parts.worker.poke(self)

    def cancel(self, request_id: str) -> None:
        """Drop a request, since its client gave up on it; one at work ends with its next token."""
        job = self._waiting.remove(request_id) or self._at_work.get(request_id)
        if job is not None:
            self._drop(job, _CANCELLED)

    def end_client(self, client: str, reason: str) -> None:
        """Drop all requests of a client that has gone."""
        gone = self._waiting.remove_client(client)
        gone += [job for job in self._at_work.values() if job.client == client]
        for job in gone:
            self._drop(job, reason)

    def _drop(self, job: SampleJob, reason: str) -> None:
        job.request.abandoned.set()
        job.future.fail(reason)
        self._parts.held.release(job)
        self._at_work.pop(job.request_id, None)

    def take(self) -> Work | None:
        """A turn of those at work, and of those who may start."""
        self._suspects = [one for one in self._suspects if not one.request.abandoned.is_set()]
        if self._suspects:
            return self._alone(self._suspects[0])
        if self._settling and not self._at_work:
            return None
        if self._waiting and not self._parts.places.enter(self):
            return None
        joining = [] if self._parts.places.closing(self) else self._waiting.take(...)
        ...
