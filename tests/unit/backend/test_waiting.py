"""The sentences for failures of the SDK, and waiting that always ends."""

from concurrent.futures import Future
from typing import Any

import httpx
import pytest
import tinker
from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture
from tinker.lib.retryable_exception import RetryableException
from tinker.types import RequestErrorCategory

from visual_r1.backend.waiting import Arrivals, checkpoint_exists, wait
from visual_r1.errors import (
    BackendError,
    CredentialError,
    EngineError,
    RequestFailed,
    RequestRefused,
)

REQUEST = httpx.Request("POST", "http://127.0.0.1:1/api/v1/asample")


def status(kind: type[tinker.APIStatusError], code: int) -> tinker.APIStatusError:
    return kind("no", response=httpx.Response(code, request=REQUEST), body=None)


def failing(category: RequestErrorCategory) -> tinker.RequestFailedError:
    return tinker.RequestFailedError("the prompt is too long", "r1", category)


def ended(value: Any = None, error: BaseException | None = None) -> AwaitableConcurrentFuture[Any]:
    future: Future[Any] = Future()
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
    return AwaitableConcurrentFuture(future)


def under_way(
    *futures: "tinker.APIFuture[Any]", limit_s: float = 60, watch: Any = None
) -> Arrivals[int, Any]:
    arrivals: Arrivals[int, Any] = Arrivals("step 3", limit_s, *([watch] if watch else []))
    for index, future in enumerate(futures):
        arrivals.add(index, future)
    return arrivals


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (failing(RequestErrorCategory.User), RequestRefused, "refused step 3: the prompt is too"),
        (failing(RequestErrorCategory.Server), BackendError, "from the last checkpoint"),
        (failing(RequestErrorCategory.Unknown), BackendError, "the prompt is too long"),
        (status(tinker.AuthenticationError, 401), CredentialError, "TINKER_API_KEY"),
        (status(tinker.RateLimitError, 429), BackendError, "status 429"),
        (tinker.APIConnectionError(request=REQUEST), BackendError, "cannot be reached"),
        (tinker.APITimeoutError(request=REQUEST), BackendError, "cannot be reached"),
        (AssertionError("no sample_sequence_ids"), BackendError, "no sample_sequence_ids"),
        (RetryableException("gone"), BackendError, "session with the server was lost"),
        (ValueError("future r1 is unknown"), BackendError, "ValueError: future r1 is unknown"),
        (RuntimeError("poisoned"), BackendError, "poisoned"),
        (TimeoutError(), BackendError, "TimeoutError"),
    ],
)
def test_each_failure_is_a_sentence_that_names_the_work(
    error: BaseException, kind: type[BackendError], words: str
) -> None:
    with pytest.raises(BackendError) as caught:
        wait(ended(error=error), "step 3", 5)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "step 3" in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_cancelled_future_is_a_lost_session() -> None:
    future: Future[int] = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    with pytest.raises(BackendError, match="was lost at step 3"):
        wait(AwaitableConcurrentFuture(future), "step 3", 5)


def test_errors_of_our_own_making_pass_through() -> None:
    with pytest.raises(KeyError):
        wait(ended(error=KeyError("a bug")), "step 3", 5)


def test_waiting_ends_at_its_limit() -> None:
    pending: Future[int] = Future()
    with pytest.raises(BackendError, match="No answer to step 3"):
        wait(AwaitableConcurrentFuture(pending), "step 3", 0.05)
    with pytest.raises(BackendError, match="No answer to step 3"):
        list(under_way(AwaitableConcurrentFuture(pending), limit_s=0.05))


def test_a_dead_engine_ends_the_wait() -> None:
    def died() -> None:
        raise EngineError("it died")

    pending: Future[int] = Future()
    with pytest.raises(EngineError):
        wait(AwaitableConcurrentFuture(pending), "step 3", 60, died)
    with pytest.raises(EngineError):
        list(under_way(AwaitableConcurrentFuture(pending), watch=died))
    with pytest.raises(EngineError):
        wait(ended(error=tinker.APIConnectionError(request=REQUEST)), "step 3", 60, died)


def test_results_come_in_the_order_of_arrival_and_refusals_are_data() -> None:
    futures: list[Future[str]] = [Future() for _ in range(3)]
    arriving = iter(under_way(*(AwaitableConcurrentFuture(future) for future in futures)))
    futures[2].set_result("third")
    assert next(arriving) == (2, "third")
    futures[0].set_exception(failing(RequestErrorCategory.User))
    index, refusal = next(arriving)
    assert index == 0
    assert isinstance(refusal, RequestRefused)
    futures[1].set_result("second")
    assert list(arriving) == [(1, "second")]


def test_what_follows_from_a_result_is_waited_for_among_the_others() -> None:
    slow: Future[str] = Future()
    follow_up: Future[str] = Future()
    arrivals = under_way(ended("first"), AwaitableConcurrentFuture(slow))
    arriving = iter(arrivals)
    assert next(arriving) == (0, "first")
    arrivals.add(2, AwaitableConcurrentFuture(follow_up))
    follow_up.set_result("second")
    assert next(arriving) == (2, "second")  # while another first one is still under way
    slow.set_result("late")
    assert next(arriving) == (1, "late")
    arrivals.add(3, ended("the last one's"))
    assert list(arriving) == [(3, "the last one's")]


def test_one_request_that_the_server_failed_at_is_data_too() -> None:
    [(index, failed)] = under_way(ended(error=failing(RequestErrorCategory.Server)))
    assert index == 0
    assert isinstance(failed, RequestFailed)
    assert "failed at step 3: the prompt is too long" in str(failed)


def test_a_lost_session_cancels_what_is_pending() -> None:
    pending: Future[str] = Future()
    broken = ended(error=ValueError("future r1 is unknown"))
    with pytest.raises(BackendError, match="lost at step 3"):
        list(under_way(AwaitableConcurrentFuture(pending), broken))
    assert pending.cancelled()


class Lookup:
    """A REST client that knows one answer."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def get_weights_info_by_tinker_path(self, path: str) -> AwaitableConcurrentFuture[Any]:
        return ended(path, self.error)


def test_only_not_found_means_that_a_checkpoint_has_gone() -> None:
    assert checkpoint_exists(Lookup(None), "tinker://a/weights/b")  # type: ignore[arg-type]
    gone = Lookup(status(tinker.NotFoundError, 404))
    assert not checkpoint_exists(gone, "tinker://a/weights/b")  # type: ignore[arg-type]
    unsure = Lookup(status(tinker.InternalServerError, 500))
    with pytest.raises(BackendError, match="looking up tinker://a/weights/b"):
        checkpoint_exists(unsure, "tinker://a/weights/b")  # type: ignore[arg-type]


def test_what_is_done_meanwhile_ends_with_the_wait() -> None:
    """Arrivals are taken in until the future is done, and no longer."""
    pending: Future[Any] = Future()
    arrivals = under_way(ended("first"), AwaitableConcurrentFuture(pending))
    taken: list[Any] = []
    awaited: Future[Any] = Future()

    def meanwhile(until: "Future[Any]", seconds: float) -> None:
        found = arrivals.within(seconds, until)
        taken.append(found)
        if found is not None:
            awaited.set_result("learnt")

    future = AwaitableConcurrentFuture(awaited)
    assert wait(future, "step 3", 60, meanwhile=meanwhile) == "learnt"
    assert taken == [(0, "first")]
    pending.set_result("second")
    assert arrivals.within(60, awaited) is None  # it is over, whatever has come
    assert arrivals.following() == (1, "second")  # and nothing is lost


def test_who_waits_for_arrivals_is_woken_for_something_else() -> None:
    pending: Future[Any] = Future()
    arrivals = under_way(AwaitableConcurrentFuture(pending))
    other: Future[Any] = Future()
    arrivals.wake_when(other)
    other.set_result(None)
    assert arrivals.within(60) is None
    pending.cancel()
