"""The open sample requests of one set of weights, in an order that is fair to who sent them.

Next is the request of the client that has the fewest samples at work; a client's own requests keep
their order. So who sends ten thousand does not hold up who sends one.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from visual_r1.engine.server.futures import Pending
from visual_r1.engine.server.wire import ReplyForm
from visual_r1.engine.types import SampleRequest


@dataclass(frozen=True)
class SampleJob:
    """A sample request, the form of its reply, and who waits for it."""

    request: SampleRequest
    form: ReplyForm
    future: Pending
    client: str = ""
    """The session whose sampler it came to, whose sequences it may train on; empty where there is
    none."""
    record: bool = False
    """Whether what is sampled is recorded for that."""

    @property
    def request_id(self) -> str:
        """Its name among all requests."""
        return self.future.request_id

    @property
    def rows(self) -> int:
        """Sequences that it adds to a batch."""
        return max(1, self.request.num_samples)


class WaitingJobs:
    """The requests that wait for one set of weights, by client."""

    def __init__(self) -> None:
        self._clients: dict[str, dict[str, SampleJob]] = {}

    def __bool__(self) -> bool:
        return bool(self._clients)

    def __contains__(self, job: SampleJob) -> bool:
        return job.request_id in self._clients.get(job.client, {})

    @property
    def clients(self) -> list[str]:
        """Those whose requests wait."""
        return list(self._clients)

    def add(self, job: SampleJob) -> None:
        """Behind the others of its client."""
        self._clients.setdefault(job.client, {})[job.request_id] = job

    def remove(self, request_id: str) -> SampleJob | None:
        """Take a request out; None where it does not wait here."""
        for client, jobs in self._clients.items():
            if (job := jobs.pop(request_id, None)) is not None:
                if not jobs:
                    del self._clients[client]
                return job
        return None

    def remove_client(self, client: str) -> list[SampleJob]:
        """Take all requests of a client out."""
        return list(self._clients.pop(client, {}).values())

    def remove_all(self) -> list[SampleJob]:
        """Take all requests out."""
        found = [job for jobs in self._clients.values() for job in jobs.values()]
        self._clients.clear()
        return found

    def take(self, at_work: Mapping[str, int], *, only_new: bool = False) -> SampleJob | None:
        """The request that starts next; `at_work` has each client's samples that are at work.

        With `only_new` it is one of a client that has none at work.
        """
        if not self._clients:
            return None
        client = min(self._clients, key=lambda one: at_work.get(one, 0))
        if only_new and at_work.get(client):
            return None
        jobs = self._clients.pop(client)
        job = jobs.pop(next(iter(jobs)))
        if jobs:
            # Behind the others, who come first where as many of theirs are at work.
            self._clients[client] = jobs
        return job


class JobsAtWork:
    """The requests whose samples decode, and how many of each client's they are."""

    def __init__(self) -> None:
        self._jobs: dict[str, SampleJob] = {}
        self.rows: Counter[str] = Counter()
        """By client; nothing of a client that has none."""

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: SampleJob) -> None:
        """It starts."""
        self._jobs[job.request_id] = job
        self.rows[job.client] += job.rows

    def remove(self, request_id: str) -> SampleJob | None:
        """It is complete, or dropped; None where it is not at work."""
        job = self._jobs.pop(request_id, None)
        if job is not None:
            self.rows[job.client] -= job.rows
            if not self.rows[job.client]:
                del self.rows[job.client]
        return job

    def remove_all(self, client: str | None = None) -> list[SampleJob]:
        """All of them, or all of a client."""
        jobs = [job for job in self._jobs.values() if client is None or job.client == client]
        for job in jobs:
            self.remove(job.request_id)
        return jobs


class OpenJobs:
    """The requests that have no answer yet, on any thread: each call is one step for all of them.

    A request waits, is at work, and leaves. Those that were at work when a turn broke are suspects:
    each starts once nothing else is at work, so that the one that breaks a turn fails alone.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting = WaitingJobs()
        self._at_work = JobsAtWork()
        self._suspects = WaitingJobs()
        self._full = False
        """Whether some waited and nobody could start, when that was looked at last."""

    def __bool__(self) -> bool:
        return self.any_at_work or self.any_to_start

    @property
    def any_at_work(self) -> bool:
        """Whether samples of a request decode."""
        return bool(self._at_work)

    @property
    def any_to_start(self) -> bool:
        """Whether a request waits, or is a suspect."""
        return bool(self._waiting or self._suspects)

    @property
    def rows(self) -> Counter[str]:
        """The samples at work, by client; one for each other that may start some."""
        with self._guard:
            rows = self._at_work.rows.copy()
            # Where nothing is at work there is room, whatever there was in the last turn.
            if not (rows and self._full):
                rows.update(one for one in self._waiting.clients if one not in rows)
            rows.update(self._suspects.clients)
        return rows

    def waits(self, job: SampleJob) -> bool:
        """Whether it is neither at work nor gone."""
        with self._guard:
            return job in self._waiting

    def add(self, job: SampleJob) -> None:
        """A request waits from here on."""
        with self._guard:
            if not self.any_to_start:
                self._full = False  # that was of others, who were dropped
            self._waiting.add(job)

    def start(self, *, room: bool, room_for_new: bool) -> SampleJob | None:
        """The request that is at work from here on.

        Args:
            room: Whether there is room for samples of anyone.
            room_for_new: Whether there is some at least for a client that has none at work.
        """
        job: SampleJob | None = None
        with self._guard:
            if self._suspects and not self._at_work:
                job = self._suspects.take({})
            elif room_for_new and not self._suspects:
                job = self._waiting.take(self._at_work.rows, only_new=not room)
            self._full = not room_for_new and self.any_to_start
            if job is not None:
                self._at_work.add(job)
        return job

    def end(self, job: SampleJob) -> bool:
        """It has been at work; False where it was dropped meanwhile."""
        with self._guard:
            return self._at_work.remove(job.request_id) is not None

    def remove(self, request_id: str) -> SampleJob | None:
        """Take a request out, wherever it is; None where it is nowhere."""
        with self._guard:
            return (
                self._waiting.remove(request_id)
                or self._at_work.remove(request_id)
                or self._suspects.remove(request_id)
            )

    def remove_client(self, client: str) -> list[SampleJob]:
        """Take all requests of a client out."""
        with self._guard:
            gone = self._waiting.remove_client(client)
            gone += self._at_work.remove_all(client)
            return gone + self._suspects.remove_client(client)

    def remove_waiting(self) -> list[SampleJob]:
        """Take out all that wait."""
        with self._guard:
            return self._waiting.remove_all()

    def broken(self) -> SampleJob | None:
        """A turn broke: all that were at work are suspects. One alone is it, and is taken out."""
        with self._guard:
            jobs = self._at_work.remove_all()
            if len(jobs) == 1:
                return jobs[0]
            for job in jobs:
                self._suspects.add(job)
        return None
