"""The order of a model's requests, and which gradients count as whole."""

import itertools

import pytest

from visual_r1.engine.server.models import (
    GAP_PATIENCE_S,
    GradientGuard,
    OperationKind,
    Refused,
    RequestOrder,
    Ticket,
)


def chunk(seq_id: int, arrival: int = 0) -> Ticket:
    return Ticket(seq_id, "forward_backward", arrival)


def all_of(order: RequestOrder, now_s: float = 0.0) -> list[tuple[int, bool]]:
    """What is handed out now: (number, refused)."""
    out: list[tuple[int, bool]] = []
    while (turn := order.pop(now_s)) is not None:
        if isinstance(turn, Refused):
            out.append((turn.ticket.seq_id, True))
        else:
            out.append((turn.seq_id, False))
    return out


def test_any_order_of_arrival_gives_the_same_order() -> None:
    for arrival in itertools.permutations([1, 2, 3, 4]):
        order = RequestOrder()
        out: list[tuple[int, bool]] = []
        for seq_id in arrival:
            assert order.add(chunk(seq_id), 0.0) is None
            out += all_of(order)
        assert out == [(1, False), (2, False), (3, False), (4, False)]


@pytest.mark.parametrize("kind", ["optim_step", "save"])
def test_a_gap_below_what_is_sent_alone_is_for_good(kind: OperationKind) -> None:
    order = RequestOrder()
    order.add(chunk(1), 0.0)
    order.add(chunk(3), 0.0)
    assert all_of(order) == [(1, False)]
    order.add(Ticket(5, kind, 0), 0.0)
    order.add(chunk(6), 0.0)
    assert all_of(order) == [(3, True), (5, True), (6, False)]
    reason = order.add(chunk(2), 0.0)
    assert reason is not None and "request 2" in reason
    assert order.seen(2) and order.seen(6) and not order.seen(7)


def test_a_load_does_not_mind_what_was_lost_before_it() -> None:
    order = RequestOrder()
    order.add(chunk(2), 0.0)
    order.add(Ticket(3, "load", 0), 0.0)
    assert all_of(order) == [(2, True), (3, False)]


def test_the_reason_names_what_is_missing() -> None:
    order = RequestOrder()
    order.add(Ticket(4, "optim_step", 0), 0.0)
    turn = order.pop(0.0)
    assert isinstance(turn, Refused)
    assert "request 1 to 3" in turn.reason and "optim_step 4" in turn.reason


def test_patience_with_chunks_ends() -> None:
    order = RequestOrder()
    order.add(chunk(2), 10.0)
    order.add(chunk(3), 20.0)
    assert all_of(order, 20.0 + GAP_PATIENCE_S - 1) == []
    assert order.waits
    assert all_of(order, 20.0 + GAP_PATIENCE_S) == [(2, True), (3, True)]
    order.add(chunk(4), 200.0)
    assert all_of(order, 200.0) == [(4, False)]


def test_chunks_that_were_there_at_the_failure_belong_to_it() -> None:
    guard = GradientGuard()
    assert not guard.belongs_to_failure(chunk(2, arrival=2))
    guard.failed("broken", arrivals=3)
    assert guard.failure == "broken"
    assert guard.belongs_to_failure(chunk(2, arrival=3))
    assert not guard.belongs_to_failure(chunk(4, arrival=4))
    guard.passed()
    assert not guard.belongs_to_failure(chunk(5, arrival=3)) and guard.failure
    guard.succeeded()
    assert guard.failure is None
