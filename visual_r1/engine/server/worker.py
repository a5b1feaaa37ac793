"""One thread for everything that computes, shared fairly among models and samplers.

The event loop asks the sources that have work in turn; each gives one piece of it. While the thread
computes, the loop goes on answering heartbeats and long polls.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Work:
    """`run` is called on the worker thread; `done` on the event loop, with the finished future."""

    run: Callable[[], Any]
    done: Callable[[Future[Any]], None]


class Source(Protocol):
    """Something with work of its own that must run in its own order."""

    async def take(self) -> Work | None:
        """The next piece of work, or None when there is none now."""
        ...


class Worker:
    """Runs the work of all sources, one piece at a time, each source in turn."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._ready: deque[Source] = deque()
        self._awake = asyncio.Event()

    def poke(self, source: Source) -> None:
        """Say that a source may have work."""
        if source not in self._ready:
            self._ready.append(source)
        self._awake.set()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function on the worker thread, behind what runs there now."""
        return self._thread.submit(function)

    async def serve(self) -> None:
        """Work until cancelled."""
        while True:
            await self._awake.wait()
            if not self._ready:
                self._awake.clear()
                continue
            source = self._ready.popleft()
            work = await source.take()
            if work is None:
                continue
            # Back at the end of the line: others come first.
            self.poke(source)
            running = self._thread.submit(work.run)
            await asyncio.wait([here := asyncio.wrap_future(running)])
            if not here.cancelled():
                here.exception()  # seen: `done` tells it, asyncio need not log it too
            work.done(running)
