"""Many requests to a sampler, a bounded number of them under way, taken as they are answered."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TypeVar

import tinker

from visual_r1.errors import BackendError, RequestFailed, RequestRefused
from visual_r1.remote import SAMPLE_LIMIT_S, Arrivals, Watch, nothing_to_watch

Key = TypeVar("Key")
T = TypeVar("T")

# Enough to keep a batching server busy, few enough that images do not fill its queue.
WINDOW = 256


def answered(
    requests: Iterable[tuple[Key, tinker.APIFuture[T]]],
    what: str,
    watch: Watch = nothing_to_watch,
    *,
    window: int = WINDOW,
    limit_s: float = SAMPLE_LIMIT_S,
) -> Iterator[tuple[Key, T | RequestRefused]]:
    """Yield (key, result) in the order of arrival; refusals and `watch` as `Arrivals`.

    `requests` is drawn lazily: drawing sends the request, and no more than `window` are under way.
    A request that the server failed at raises `BackendError`, unlike in training: an evaluation
    over the problems that a failing server happened to answer would be no honest figure.
    """
    source = iter(requests)
    arrivals: Arrivals[Key, T] = Arrivals(what, limit_s, watch)

    def send_next() -> None:
        for key, future in source:
            arrivals.add(key, future)
            return

    for _ in range(window):
        send_next()
    with closing(iter(arrivals)) as arriving:
        for key, result in arriving:
            if isinstance(result, RequestFailed):
                raise BackendError(str(result))
            send_next()
            yield key, result
