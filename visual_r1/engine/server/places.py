"""How many sets of weights have samples at work at one time.

What decodes keeps keys and values in memory, and with each set of weights a copy of them. So of
hundreds of adapters a few are at work, and the others wait for a place. Who has one while others
wait takes in no more requests after a second, and leaves once its answers are complete.
"""

import asyncio
from typing import Any

from visual_r1.engine.server.worker import Source, Worker

MOST_AT_WORK = 8
"""As many as there are adapters ready in memory, see `weights`."""

STAY_S = 1.0


class Places:
    """The sources that have a place. Lives on the event loop, but for `must_leave`."""

    def __init__(self, worker: Worker, most: int = MOST_AT_WORK) -> None:
        """`worker` says whose turn it is when a place becomes free."""
        self._worker = worker
        self._most = most
        self._inside: dict[Any, float] = {}
        self._outside: set[Any] = set()

    def enter(self, source: Source) -> bool:
        """Whether the source has a place now; else it is poked when one is free."""
        if source not in self._inside and len(self._inside) >= self._most:
            self._outside.add(source)
            return False
        self._inside.setdefault(source, asyncio.get_running_loop().time())
        self._outside.discard(source)
        return True

    def leave(self, source: Source) -> None:
        """Nothing of it is at work; one without a place is no error."""
        if self._inside.pop(source, None) is None:
            return
        # Which of them is next is a matter of time given, which the worker knows.
        for waiting in self._outside:
            self._worker.poke(waiting)
        self._outside.clear()

    def must_leave(self, source: Source, now_s: float) -> bool:
        """Whether it is to take in no more: others wait for its place. On any thread."""
        return bool(self._outside) and now_s - self._inside.get(source, now_s) > STAY_S
