"""The order in which a model's requests run, and which optimizer steps must not.

A training client numbers its requests from 1. The chunks of one `forward_backward` are sent
together and arrive in any order, the first of them last; everything else is sent one after the
other. So a number that is missing below a waiting `forward_backward` may still come, but one that
is missing below an `optim_step` or a save never will.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

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


class Sequence:
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
            if not self._gap_is_for_good(now_s):
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
        return Refused(ticket, _lost(gap, ticket))

    def _gap_is_for_good(self, now_s: float) -> bool:
        sent_alone = any(not ticket.is_chunk for ticket in self._waiting.values())
        return sent_alone or now_s - self._last_arrival_s >= GAP_PATIENCE_S


def _lost(gap: range, ticket: Ticket) -> str:
    numbers = f"{gap.start}" if len(gap) == 1 else f"{gap.start} to {gap.stop - 1}"
    return (
        f"request {numbers} of this model never arrived, so {ticket.kind} {ticket.seq_id} was "
        "refused and the gradients since the last optim_step were dropped; "
        "send what was lost, and this, again."
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
