"""When a client's burst of requests is at its end.

What starts at one time is computed together, which costs less than what joins one after the other
(16 groups of 8 on the shipped model, each two tokens after the one before: half as much again).
A training loop sends the requests of a step in a burst, of the same size each step. So a burst is
over when as many have come as in the client's largest burst of late, or when none has come for a
moment, which is longer where more are to be expected.
"""

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field

SETTLE_S = 0.01
EXPECTED_S = 0.03
"""After the last request; the second where the client's bursts of late were larger."""
SETTLE_AT_MOST_S = 0.25
"""After the first request: who sends without an end is not waited for."""

_APART_S = 0.05
"""Requests of one client that come further apart are of two bursts."""


_OF_LATE = 64


@dataclass
class _Sizes:
    last_s: float
    now: int = 0
    before: deque[int] = field(default_factory=lambda: deque[int](maxlen=_OF_LATE))


class Bursts:
    """How many requests the clients send together."""

    def __init__(self) -> None:
        self._sizes: dict[str, _Sizes] = {}

    def note(self, client: str, now_s: float) -> None:
        """A request of a client has come."""
        sizes = self._sizes.setdefault(client, _Sizes(now_s))
        if now_s - sizes.last_s > _APART_S:
            sizes.before.append(sizes.now)
            sizes.now = 0
        sizes.now += 1
        sizes.last_s = now_s

    def largest(self, client: str) -> int:
        """The size of its largest burst before the present one; 0 where none is known."""
        sizes = self._sizes.get(client)
        return max(sizes.before, default=0) if sizes is not None else 0

    def forget(self, live: Collection[str]) -> None:
        """Forget all clients but these."""
        self._sizes = {name: sizes for name, sizes in self._sizes.items() if name in live}


class Settling:
    """The requests that came to one queue while nothing of it was at work."""

    def __init__(self, bursts: Bursts) -> None:
        self._bursts = bursts
        self._came: Counter[str] = Counter()
        self._first_s = self._last_s = 0.0

    def add(self, client: str, now_s: float) -> None:
        """A request has come, and was noted."""
        self._first_s = self._first_s if self._came else now_s
        self._last_s = now_s
        self._came[client] += 1

    @property
    def over_at_s(self) -> float:
        """When to begin, if nothing more comes."""
        waits = [self._wait_s(client, count) for client, count in self._came.items()]
        return min(self._last_s + max(waits), self._first_s + SETTLE_AT_MOST_S)

    def _wait_s(self, client: str, count: int) -> float:
        largest = self._bursts.largest(client)
        if not largest:
            return SETTLE_S
        return EXPECTED_S if count < largest else 0.0
