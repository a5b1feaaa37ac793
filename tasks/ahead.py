"""What a run is about to need, started while its program imports: the engine, and Prefect's server.

The imports of a flow take seconds on one core, and so do the engine's and those of the temporary
server. Both are begun as soon as the flags are read and nothing is wrong with them. What comes of
it is nobody's until it is asked for: a start that fails here is made again there, and says why.

The lock of the engine's home is taken first, so that no two commands begin an engine in one home;
`slots` takes it over. Imports no Prefect.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path

from filelock import FileLock, Timeout

from visual_r1.backend.endpoint import choose_kind
from visual_r1.backend.shared_engine import EngineOf, SharedEngine, engine_of
from visual_r1.config import RunConfig
from visual_r1.errors import VisualR1Error

_engines: list[SharedEngine] = []
_locks: dict[Path, FileLock] = {}
_starts: list[threading.Thread] = []


def home_of(config: RunConfig) -> Path:
    """The folder of the embedded engine that a run of `config` uses."""
    return (config.backend.engine_home or config.state_dir / "engine").absolute()


def begin_engine_ahead(config: RunConfig) -> None:
    """Let the embedded engine load, where `config` uses it and nobody else uses its home."""
    is_reported = (config.run_dir / "summary.json").exists()  # it may need no engine
    if is_reported or choose_kind(config, os.environ) != "embedded":
        return
    home = home_of(config)
    lock = FileLock(home / "run.lock")
    # What is wrong with the folder, or keeps the engine from starting, is said by who needs it.
    with suppress(OSError, Timeout, VisualR1Error):
        home.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        _locks[home] = lock
        engine = engine_of(EngineOf(home, config.model.name, config.backend.threads))
        _engines.append(engine)
        engine.begin()


def begin_ahead(start: Callable[[], object]) -> None:
    """Call `start` beside what this process does; whoever needs its result waits for it, or calls
    it again where it failed."""

    def tried() -> None:
        with suppress(VisualR1Error, OSError):
            start()

    # With Prefect's settings, which are a context of this thread.
    of_this_thread = copy_context()
    _starts.append(threading.Thread(target=of_this_thread.run, args=(tried,), name="ahead"))
    _starts[-1].daemon = True
    _starts[-1].start()


def taken_over(home: Path) -> FileLock | None:
    """The lock of the home, where it was taken ahead; it is the caller's from then on."""
    return _locks.pop(home, None)


def let_go() -> None:
    """Keep nothing that was begun ahead; what somebody uses by now goes on for them."""
    while _engines:
        _engines.pop().release()
    while _locks:
        _locks.popitem()[1].release()
