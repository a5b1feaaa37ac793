"""Requests in a bounded window: the SDK's own futures, resolved by hand."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
import tinker
from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture
from tinker.types import RequestErrorCategory

from visual_r1.backend.waiting import answered
from visual_r1.errors import BackendError, EngineError, RequestRefused

Sent = list["Future[str]"]


def never(sent: Sent) -> None:
    """Answer nothing."""


def at_once(sent: Sent) -> None:
    """Answer each request as it is sent."""
    sent[-1].set_result(f"answer {len(sent) - 1}")


def requests(
    count: int, sent: Sent, on_send: Callable[[Sent], None]
) -> Iterator[tuple[int, "tinker.APIFuture[str]"]]:
    """`count` requests; `on_send` plays the server whenever one more has been sent."""
    for index in range(count):
        sent.append(Future())
        on_send(sent)
        yield index, AwaitableConcurrentFuture(sent[-1])


def failure(text: str, category: RequestErrorCategory) -> tinker.RequestFailedError:
    return tinker.RequestFailedError(text, "request-1", category)


def test_each_request_gets_its_own_answer():
    got = list(answered(requests(300, [], at_once), "a test"))
    assert got == [(index, f"answer {index}") for index in range(300)]


def test_answers_come_in_the_order_of_arrival_and_no_more_than_the_window_wait():
    most = 0

    def newest_first(sent: Sent) -> None:
        nonlocal most
        pending = [future for future in sent if not future.done()]
        most = max(most, len(pending))
        if len(pending) == 3:
            pending[-1].set_result("early")
        if len(sent) == 7:
            for future in pending[:-1]:
                future.set_result("late")

    got = list(answered(requests(7, [], newest_first), "a test", window=3))
    assert most == 3
    assert [key for key, _ in got] == [2, 3, 4, 5, 0, 1, 6]


def test_a_request_is_sent_only_when_another_was_answered():
    sent: Sent = []
    stream = answered(requests(20, sent, at_once), "a test", window=3)
    for received, _ in enumerate(stream, start=1):
        assert len(sent) - received <= 3


def test_a_refusal_is_data_and_the_others_go_on():
    def refuse_the_first(sent: Sent) -> None:
        if len(sent) == 1:
            sent[0].set_exception(failure("prompt too long", RequestErrorCategory.User))
        else:
            at_once(sent)

    got = dict(answered(requests(3, [], refuse_the_first), "a test"))
    assert isinstance(got[0], RequestRefused)
    assert "prompt too long" in str(got[0])
    assert (got[1], got[2]) == ("answer 1", "answer 2")


def test_a_failing_server_ends_it_and_cancels_the_rest():
    def fail_the_second(sent: Sent) -> None:
        if len(sent) == 2:
            sent[1].set_exception(failure("out of memory", RequestErrorCategory.Server))

    sent: Sent = []
    with pytest.raises(BackendError, match="out of memory"):
        list(answered(requests(3, sent, fail_the_second), "a test"))
    assert [future.cancelled() for future in sent] == [True, False, True]


def test_a_watch_that_finds_the_server_dead_ends_the_wait():
    def dead() -> None:
        raise EngineError("the engine died")

    sent: Sent = []
    with pytest.raises(EngineError, match="died"):
        list(answered(requests(1, sent, never), "a test", dead, limit_s=0.1))
    assert sent[0].cancelled()


def test_a_server_that_says_nothing_is_not_waited_for_for_ever():
    with pytest.raises(BackendError, match="No answer to a test within"):
        list(answered(requests(1, [], never), "a test", limit_s=0.05))
