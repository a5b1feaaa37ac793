"""One thread for everything that computes, its time shared fairly among clients.

The event loop asks the sources that have work; each gives one piece of it. While the thread
computes, the loop goes on answering heartbeats and long polls. Who is next is decided by seconds,
not by pieces (start-time fair queuing, Goyal, Vin and Cheng, 1996): the client that was given the
least, and of its sources (a model in training, a sampler) the one that was given the least. So a
client with a hundred samplers gets no more than one with a single model, and half a minute of
training is followed by half a minute of sampling, where both wait.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

Name = TypeVar("Name")


@dataclass(frozen=True)
class Work:
    """`run` is called on the worker thread; `done` on the event loop, with the finished future."""

    run: Callable[[], Any]
    done: Callable[[Future[Any]], None]


class Source(Protocol):
    """Something with work of its own that must run in its own order."""

    @property
    def shares(self) -> Mapping[str, float]:
        """Which clients its next piece of work is for, and in which proportion (1 in all)."""
        ...

    def take(self) -> Work | None:
        """The next piece of work, or None when there is none now."""
        ...


class _Seconds(Generic[Name]):
    """What each was given. Who was idle has saved nothing: it begins level with who is next."""

    def __init__(self) -> None:
        self._given: dict[Name, float] = {}
        self._floor = 0.0

    def of(self, name: Name) -> float:
        return max(self._given.get(name, 0.0), self._floor)

    def least(self, names: Collection[Name]) -> Name:
        """Who is next; the first of those that are level."""
        chosen = min(names, key=self.of)
        self._floor = self.of(chosen)
        return chosen

    def give(self, name: Name, seconds: float) -> None:
        self._given[name] = self.of(name) + seconds

    def keep(self, names: Collection[Name]) -> None:
        """Forget the others."""
        self._given = {name: given for name, given in self._given.items() if name in names}


class Worker:
    """Runs the work of all sources, one piece at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        # Used as a set in the order of arrival.
        self._ready: dict[Source, None] = {}
        self._awake = asyncio.Event()
        self._clients: _Seconds[str] = _Seconds()
        self._sources: dict[str, _Seconds[Source]] = {}

    @property
    def others_wait(self) -> bool:
        """Whether a source waits for its turn behind the one that is at work. On any thread."""
        return bool(self._ready)

    def poke(self, source: Source) -> None:
        """Say that a source may have work."""
        self._ready.setdefault(source)
        self._awake.set()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function on the worker thread, behind what runs there now."""
        return self._thread.submit(function)

    def forget(self, live: Collection[str]) -> None:
        """Forget the accounts of all clients but these, and but those whose work waits."""
        waiting = {client for source in self._ready for client in source.shares}
        kept = waiting.union(live)
        self._clients.keep(kept)
        self._sources = {name: one for name, one in self._sources.items() if name in kept}
        for one in self._sources.values():
            one.keep(self._ready)

    async def serve(self) -> None:
        """Work until cancelled."""
        while True:
            await self._awake.wait()
            if not self._ready:
                self._awake.clear()
                continue
            source = self._next()
            del self._ready[source]
            shares = dict(source.shares)
            work = source.take()
            if work is None:
                continue
            began = self._clock()
            running = self._thread.submit(work.run)
            await asyncio.wait([here := asyncio.wrap_future(running)])
            if not here.cancelled():
                here.exception()  # seen: `done` tells it, asyncio need not log it too
            self._charge(source, shares, self._clock() - began)
            # It may have more; whoever came before it is first where both are level.
            self.poke(source)
            work.done(running)

    def _next(self) -> Source:
        """The source whose turn it is."""
        by_client: dict[str, list[Source]] = {}
        for source in self._ready:
            for client in source.shares or {"": 1.0}:
                by_client.setdefault(client, []).append(source)
        client = self._clients.least(by_client)
        return self._sources.setdefault(client, _Seconds()).least(by_client[client])

    def _charge(self, source: Source, shares: Mapping[str, float], seconds: float) -> None:
        for client, share in shares.items():
            self._clients.give(client, seconds * share)
            self._sources.setdefault(client, _Seconds()).give(source, seconds * share)
