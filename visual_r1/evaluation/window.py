"""Many requests to a sampler, a bounded number of them under way, taken as they are answered."""

import concurrent.futures
import queue
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import tinker

from visual_r1.errors import BackendError, RequestRefused
from visual_r1.remote import FAILURES, SAMPLE_LIMIT_S, Watch, described, nothing_to_watch

Key = TypeVar("Key")
T = TypeVar("T")

# Enough to keep a batching server busy, few enough that images do not fill its queue.
WINDOW = 256
_SLICE_S = 1.0


def answered(
    requests: Iterable[tuple[Key, tinker.APIFuture[T]]],
    what: str,
    watch: Watch = nothing_to_watch,
    *,
    window: int = WINDOW,
    limit_s: float = SAMPLE_LIMIT_S,
) -> Iterator[tuple[Key, T | RequestRefused]]:
    """Yield (key, result) in the order of arrival.

    `requests` is drawn lazily: drawing sends the request, and no more than `window` are under way.
    A request that the server refused yields its `RequestRefused` in place of a result: it is data.
    Any other failure raises `BackendError`, as does a pause of `limit_s` seconds in which nothing
    arrives. `watch` is called about once a second while waiting, and raises when the server has
    died. Whatever is still pending when the iteration ends early is cancelled.
    """
    source = iter(requests)
    arrived: queue.SimpleQueue[concurrent.futures.Future[T]] = queue.SimpleQueue()
    key_of: dict[concurrent.futures.Future[T], Key] = {}

    def send_next() -> None:
        for key, future in source:
            pending = future.future()
            key_of[pending] = key
            # A callback costs the same however many wait; `wait` on a set grows with the set.
            pending.add_done_callback(arrived.put)
            return

    try:
        for _ in range(window):
            send_next()
        while key_of:
            future = _next_arrival(arrived, what, watch, limit_s)
            key = key_of.pop(future)
            send_next()
            yield key, _result(future, what, watch)
    finally:
        for pending in key_of:
            pending.cancel()


def _next_arrival(
    arrived: "queue.SimpleQueue[concurrent.futures.Future[T]]",
    what: str,
    watch: Watch,
    limit_s: float,
) -> "concurrent.futures.Future[T]":
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return arrived.get(timeout=min(_SLICE_S, limit_s))
        except queue.Empty:
            watch()
        if time.monotonic() > deadline:
            raise BackendError(
                f"No answer to {what} within {limit_s / 60:.0f} minutes: the server may be paused "
                "for capacity or have died; the same command evaluates again."
            )


def _result(future: "concurrent.futures.Future[T]", what: str, watch: Watch) -> T | RequestRefused:
    try:
        return future.result(timeout=0)
    except FAILURES as error:
        watch()
        failure = described(error, what)
        if isinstance(failure, RequestRefused):
            return failure
        raise failure from error
