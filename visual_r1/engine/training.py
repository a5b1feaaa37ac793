"""A model in training: its requests run in the order of their numbers, on the worker thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from visual_r1.engine.compute import Adapter, Compute
from visual_r1.engine.futures import Pending, Reply
from visual_r1.engine.ordering import (
    GAP_PATIENCE_S,
    GradientGuard,
    OperationKind,
    Refused,
    Sequence,
    Ticket,
)
from visual_r1.engine.outcomes import failure_of
from visual_r1.engine.records import RunRecord
from visual_r1.engine.requests import InvalidRequest
from visual_r1.engine.worker import Work, Worker


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
        self._sequence = Sequence()
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
        return self._sequence.seen(seq_id)

    def add(
        self, seq_id: int, kind: OperationKind, future: Pending, run: Callable[[], Reply]
    ) -> None:
        """Take in a request that is new; its future is settled when it has run, or cannot."""
        self._arrivals += 1
        ticket = Ticket(seq_id, kind, self._arrivals)
        now_s = asyncio.get_running_loop().time()
        too_late = self._dead or self._sequence.add(ticket, now_s)
        if too_late:
            future.fail(too_late)
            return
        self._operations[seq_id] = Operation(ticket, future, run)
        self._worker.poke(self)

    def end(self, reason: str) -> None:
        """Forget the weights; whoever still waits is told the reason."""
        self._dead = reason
        self._adapter = None
        for operation in self._operations.values():
            operation.future.fail(reason)
        self._operations.clear()

    async def take(self) -> Work | None:
        """The next request to run, refusing those that must not."""
        if self._creation is not None:
            future, run = self._creation
            self._creation = None
            return Work(run, partial(self._create_done, future))
        while not self._dead:
            turn = self._sequence.pop(asyncio.get_running_loop().time())
            if turn is None:
                if self._sequence.waits:
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

    def _create_done(self, future: Pending, outcome: Future[Reply]) -> None:
        failed = failure_of(outcome, f"the creation of {self.model_id}")
        if failed is None:
            future.settle(outcome.result())
        else:
            future.fail(*failed)
            self.end(f"the model {self.model_id} could not be made: {failed[0]}")

    def _done(self, operation: Operation, outcome: Future[Reply]) -> None:
        ticket = operation.ticket
        failed = failure_of(outcome, f"{ticket.kind} {ticket.seq_id} of {self.model_id}")
        if not ticket.is_chunk:
            self._guard.passed()
        if failed is None:
            operation.future.settle(outcome.result())
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
