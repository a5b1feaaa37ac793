"""The embedded engine of a home: one process, whichever runs of this program use it.

A home has one engine at a time, and an engine serves any number of sessions. So the runs of a sweep
share it, one after the other or at once: it starts with the first that needs it, ends with the last
that lets go of it, and one that died is replaced by whoever needs it next.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from visual_r1.engine.launch import RunningEngine, StartingEngine, begin_engine

Start = Callable[[], StartingEngine]


class EngineOf(NamedTuple):
    """What runs must have in common to use one engine."""

    home: Path
    model: str
    threads: int


class SharedEngine:
    """An engine and how many use it; made by `use_engine` alone."""

    def __init__(self, key: EngineOf, start: Start) -> None:
        self._key = key
        self._start = start
        self._changing = threading.Lock()
        self._launch: StartingEngine | None = None
        self._engine: RunningEngine | None = None
        self.users = 0

    def begin(self) -> None:
        """Let it start in the background, where it has not, or has ended again."""
        with self._changing:
            if self._launch is not None and self._launch.has_ended:
                self._launch.cancel()
                self._launch = None
            if self._launch is None and self._engine is None:
                self._launch = self._start()

    def serving(self) -> RunningEngine:
        """The engine, waited for until it serves; another one where it has died.

        Raises `EngineError` where it does not start.
        """
        with self._changing:
            if self._engine is not None and not alive(self._engine):
                self._engine.close()
                self._engine = None
            if self._engine is None:
                launch, self._launch = self._launch or self._start(), None
                self._engine = launch.ready()
            return self._engine

    def release(self) -> None:
        """One of its users needs it no longer; with the last of them it ends."""
        with _registry:
            self.users -= 1
            if self.users:
                return
            del _engines[self._key]
            with self._changing:
                if self._engine is not None:
                    self._engine.close()
                if self._launch is not None:
                    self._launch.cancel()
                self._engine = self._launch = None


_engines: dict[EngineOf, SharedEngine] = {}
# Held while the last user ends it, too: the next one would find the home in use.
_registry = threading.Lock()


def use_engine(key: EngineOf, start: Start) -> SharedEngine:
    """The engine of this process for `key`, to be released; `start` starts one where none is."""
    with _registry:
        engine = _engines.setdefault(key, SharedEngine(key, start))
        engine.users += 1
        return engine


def engine_of(key: EngineOf) -> SharedEngine:
    """The same, started as a backend starts it, for who has no backend yet."""
    log = key.home / "engine.log"
    return use_engine(key, lambda: begin_engine(key.home, key.model, key.threads, log))


def alive(engine: RunningEngine) -> bool:
    """Whether its process is there."""
    return engine.process.poll() is None
