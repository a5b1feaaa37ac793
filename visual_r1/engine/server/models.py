"""A model in training: its requests run in the order of their numbers, on the worker thread.

A training client numbers its requests from 1. The chunks of one `forward_backward` are sent
together and arrive in any order, the first of them last; everything else is sent one after the
other. So a number that is missing below a waiting `forward_backward` may still come, but one that
is missing below an `optim_step` or a save never will.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.server.futures import Pending, Reply, failure_of
from visual_r1.engine.server.worker import Work, Worker
from visual_r1.engine.store.records import RunRecord, session_of
from visual_r1.engine.types import InvalidRequest

OperationKind: TypeAlias = Literal["forward", "forward_backward", "optim_step", "save", "load"]

GAP_PATIENCE_S = 60.0
"""How long chunks wait for a missing one when nothing says that it will never come."""


@dataclass(frozen=True)
class Ticket:
    """A request's place in its model's order; `arrival` counts the requests as they come in."""

    seq_id: int
    kind: OperationKind
    arrival: int

    @property
    def is_chunk(self) -> bool:
        """Whether it may be one of several requests that are sent together."""
        return self.kind in ("forward", "forward_backward")


@dataclass(frozen=True)
class Refused:
    """A request that cannot run since numbers below it are missing for good."""

    ticket: Ticket
    reason: str


class RequestOrder:
    """Hands out tickets in the order of their numbers; one number runs once."""

    def __init__(self) -> None:
        self._next = 1
        self._waiting: dict[int, Ticket] = {}
        self._last_arrival_s = 0.0
        self._gap: range | None = None

    @property
    def waits(self) -> bool:
        """Whether a ticket waits for one below it."""
        return bool(self._waiting)

    def add(self, ticket: Ticket, now_s: float) -> str | None:
        """Take a ticket in; the text says why, where it comes too late to be run."""
        if ticket.seq_id < self._next:
            return (
                f"request {ticket.seq_id} of this model came after request {self._next - 1} had "
                "run; requests run in the order of their seq_id, each once."
            )
        self._waiting[ticket.seq_id] = ticket
        self._last_arrival_s = now_s
        return None

    def seen(self, seq_id: int) -> bool:
        """Whether that number has arrived already, or its turn has passed."""
        return seq_id in self._waiting or seq_id < self._next

    def pop(self, now_s: float) -> Ticket | Refused | None:
        """The next ticket to run, one to refuse, or None while there is something to wait for."""
        if not self._waiting:
            return None
        lowest = min(self._waiting)
        if lowest > self._next:
            sent_alone = any(not ticket.is_chunk for ticket in self._waiting.values())
            if not sent_alone and now_s - self._last_arrival_s < GAP_PATIENCE_S:
                return None
            self._gap = range(self._next, lowest)
        ticket = self._waiting.pop(lowest)
        self._next = lowest + 1
        gap = self._gap
        # Chunks that stand between the gap and the request that showed it to be for good may belong
        # to the call that lost a chunk: they are refused with it.
        if not ticket.is_chunk or not self._waiting:
            self._gap = None
        if gap is None or ticket.kind == "load":
            return ticket
        numbers = f"{gap.start}" if len(gap) == 1 else f"{gap.start} to {gap.stop - 1}"
        return Refused(
            ticket,
            f"request {numbers} of this model never arrived, so {ticket.kind} {ticket.seq_id} was "
            "refused and the gradients since the last optim_step were dropped; "
            "send what was lost, and this, again.",
        )


class GradientGuard:
    """Whether the accumulated gradient is whole, so that an optimizer step may use it.

    When a `forward_backward` fails, what its other chunks accumulated is worth nothing, and a
    client may already have sent the optimizer step that belongs to it. Chunks of one call all
    arrive before the first of them runs. So a `forward_backward` counts as a new call when it
    arrived after the failure, or stands behind a later request that is not a chunk.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self._arrivals_then = -1

    def failed(self, reason: str, arrivals: int) -> None:
        """A forward_backward failed when `arrivals` requests of the model had come in."""
        self.failure = reason
        self._arrivals_then = arrivals

    def passed(self) -> None:
        """A request that is not a chunk has had its turn: what follows it is a new call."""
        self._arrivals_then = -1

    def succeeded(self) -> None:
        """A forward_backward of a new call succeeded, or the weights were loaded anew."""
        self.failure = None

    def belongs_to_failure(self, ticket: Ticket) -> bool:
        """Whether this chunk was sent before the client could know of the failure."""
        return self.failure is not None and ticket.arrival <= self._arrivals_then


@dataclass(frozen=True)
class Operation:
    """A received request: its place in the order, who waits for it, and what it does."""

    ticket: Ticket
    future: Pending
    run: Callable[[], Reply]


class TrainingModel:
    """One model id. Everything but `run` and `adapter` is used on the event loop alone.

    The adapter is made by `create`, the first thing that runs; `adapter` belongs to the worker
    thread from then on.
    """

    def __init__(self, model_id: str, worker: Worker, compute: Compute) -> None:
        self.model_id = model_id
        self._worker = worker
        self._compute = compute
        self._order = RequestOrder()
        self._guard = GradientGuard()
        self._operations: dict[int, Operation] = {}
        self._creation: tuple[Pending, Callable[[], Reply]] | None = None
        self._dead: str | None = None
        self._arrivals = 0
        self._adapter: Adapter | None = None
        self._record: RunRecord | None = None

    # -- on the event loop -----------------------------------------------------------------------

    def create(self, future: Pending, run: Callable[[], Reply]) -> None:
        """Queue what makes the adapter; it runs before all else."""
        self._creation = (future, run)
        self._worker.poke(self)

    def seen(self, seq_id: int) -> bool:
        """Whether a request of that number has come before."""
        return self._order.seen(seq_id)

    def add(
        self, seq_id: int, kind: OperationKind, future: Pending, run: Callable[[], Reply]
    ) -> None:
        """Take in a request that is new; its future is settled when it has run, or cannot."""
        self._arrivals += 1
        ticket = Ticket(seq_id, kind, self._arrivals)
        now_s = asyncio.get_running_loop().time()
        too_late = self._dead or self._order.add(ticket, now_s)
        if too_late:
            future.fail(too_late)
            return
        self._operations[seq_id] = Operation(ticket, future, run)
        self._worker.poke(self)

    def end(self, reason: str) -> None:
        """Forget the weights; whoever still waits is told the reason."""
        self._dead = reason
        self._adapter = None
        waiting = [operation.future for operation in self._operations.values()]
        self._operations.clear()
        if self._creation is not None:
            waiting.append(self._creation[0])
            self._creation = None
        for future in waiting:
            future.fail(reason)

    @property
    def shares(self) -> Mapping[str, float]:
        """All of it is for the client whose session made it."""
        return {session_of(self.model_id): 1.0}

    def take(self) -> Work | None:
        """The next request to run, refusing those that must not."""
        if self._creation is not None:
            future, run = self._creation
            self._creation = None
            return Work(run, partial(self._created, future))
        while not self._dead:
            turn = self._order.pop(asyncio.get_running_loop().time())
            if turn is None:
                if self._order.waits:
                    loop = asyncio.get_running_loop()
                    loop.call_later(GAP_PATIENCE_S, self._worker.poke, self)
                return None
            ticket = turn.ticket if isinstance(turn, Refused) else turn
            operation = self._operations.pop(ticket.seq_id)
            reason = turn.reason if isinstance(turn, Refused) else self._refusal(ticket)
            if reason is None:
                clear_first = ticket.kind == "forward_backward" and self._guard.failure is not None
                return Work(
                    partial(self._run, operation, clear_first), partial(self._done, operation)
                )
            operation.future.fail(reason)
            if isinstance(turn, Refused):
                self._guard.failed(reason, self._arrivals)
            if not ticket.is_chunk:
                self._guard.passed()
        return None

    def _refusal(self, ticket: Ticket) -> str | None:
        failure = self._guard.failure
        if failure is None:
            return None
        if ticket.kind == "optim_step":
            return (
                f"optim_step {ticket.seq_id} was refused since the gradient is not whole; "
                f"send the forward_backward again first. What failed: {failure}"
            )
        if ticket.kind == "forward_backward" and self._guard.belongs_to_failure(ticket):
            return (
                f"forward_backward {ticket.seq_id} was not added to the gradient: it was sent "
                f"together with one that failed; send it again. What failed: {failure}"
            )
        return None

    def _created(self, future: Pending, work: Future[Reply]) -> None:
        failed = failure_of(work, f"the creation of {self.model_id}")
        if failed is None:
            future.settle(work.result())
        else:
            future.fail(*failed)
            self.end(f"the model {self.model_id} could not be made: {failed[0]}")

    def _done(self, operation: Operation, work: Future[Reply]) -> None:
        ticket = operation.ticket
        failed = failure_of(work, f"{ticket.kind} {ticket.seq_id} of {self.model_id}")
        if not ticket.is_chunk:
            self._guard.passed()
        if failed is None:
            operation.future.settle(work.result())
            if ticket.kind in ("forward_backward", "load"):
                self._guard.succeeded()
            return
        message, category = failed
        if ticket.kind == "forward_backward":
            message += " The gradients since the last optim_step were dropped."
            self._guard.failed(failed[0], self._arrivals)
        operation.future.fail(message, category)

    # -- on the worker thread --------------------------------------------------------------------

    def made(self, record: RunRecord, adapter: Adapter) -> None:
        """Give the model its weights, and what is known of it."""
        self._record = record
        self._adapter = adapter

    @property
    def record(self) -> RunRecord:
        """What was written down of it. Raises `InvalidRequest` before it is made."""
        if self._record is None:
            raise InvalidRequest(f"the model {self.model_id} is still being made.")
        return self._record

    @property
    def adapter(self) -> Adapter:
        """The weights in training. Raises `InvalidRequest` when the session is over."""
        if self._adapter is None:
            raise InvalidRequest(self._dead or f"the model {self.model_id} has no weights yet.")
        return self._adapter

    def replace_adapter(self, adapter: Adapter) -> None:
        """Go on with other weights."""
        self._adapter = adapter

    def _run(self, operation: Operation, clear_first: bool) -> Reply:
        if clear_first:
            # What the failed call had accumulated must not reach the next optimizer step.
            self._compute.drop_gradients(self.adapter)
        return operation.run()
