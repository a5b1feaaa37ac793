"""The product's own commands, many in one process: no engine process, no Prefect server.

The flows run as they are. Prefect's `task` is a cache in memory (`verified` holds its results
against the files, as ever), and the engine serves from a thread, around a base model that is loaded
once; all else of it is made anew each time, from its home folder.
"""

import asyncio
import contextlib
import inspect
import io
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

os.environ |= {"TINKER_TELEMETRY": "0", "OMP_WAIT_POLICY": "PASSIVE"}
os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="damage-prefect-"))

import prefect
import uvicorn

START_WITHIN_S = 60.0
_results: dict[str, str] = {}


class _Cached:
    """What stands for a Prefect task: the results of an earlier invocation are known by their
    keys."""

    def __init__(self, work: Callable[..., Any], *, refresh: bool = False, **options: Any) -> None:
        self._work, self._refresh, self._options = work, refresh, options

    def __call__(self, *args: Any, **named: Any) -> Any:
        key_of = self._options.get("cache_key_fn")
        if key_of is None:
            return None if self._work.__name__ == "_report" else self._work(*args, **named)
        given = inspect.signature(self._work).bind(*args, **named)
        given.apply_defaults()
        key = key_of(None, dict(given.arguments))
        if key not in _results or self._refresh:
            _results[key] = json.dumps(self._work(*args, **named))
        return json.loads(_results[key])

    def with_options(self, *, refresh_cache: bool) -> "_Cached":
        return _Cached(self._work, refresh=refresh_cache, **self._options)


def _task(work: Callable[..., Any] | None = None, **options: Any) -> Any:
    return _Cached(work, **options) if work else lambda one: _Cached(one, **options)


prefect.task = _task

import visual_r1.backend.backend as backend_module
import visual_r1.engine.compute.compute as compute_module
import visual_r1.engine.process as process_module
from flows.evaluate_flow import evaluate as evaluate_flow
from flows.train_flow import train as train_flow
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.doctor.preflight import require_sound
from visual_r1.errors import EngineError, EngineRefused, VisualR1Error
from visual_r1.models import TINY_GEOMETRY
from visual_r1.runs import lost
from visual_r1.runs.folder import config_of_run, open_run_folder
from visual_r1.runs.goal import require_goal
from visual_r1.verify.command import main as verify_command

_Compute = compute_module.Compute
_loaded: list[Any] = []


def _shared_compute(*_: Any, **__: Any) -> Any:
    if not _loaded:
        _loaded.append(_Compute(TINY_GEOMETRY, device="cpu", threads=1))
    return _loaded[0]


compute_module.Compute = _shared_compute


class _Stopping(process_module.Shutdown):
    def begin(self) -> None:
        if self._stop is not None:
            self._stop()


class _Thread:
    """What stands for the engine's process."""

    pid = os.getpid()
    returncode: int | None = None

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    def poll(self) -> int | None:
        if self._thread.is_alive():
            return None
        self.returncode = 1
        return 1

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        return 0


class _Engine:
    """What stands for a `StartingEngine` and for a `RunningEngine`."""

    def __init__(self, home: Path, model: str) -> None:
        self.api_key = "tml-of-this-process"
        self.url = ""
        self._told: Future[str] = Future()
        self._shutdown = _Stopping()
        listener = process_module.bind("127.0.0.1", 0)
        options = process_module.ServeOptions(
            host="127.0.0.1",
            port=0,
            home=home,
            model=model,
            device="cpu",
            threads=1,
            api_key=self.api_key,
            has_parent=True,
        )
        announced[listener.getsockname()[1]] = self._told

        def work() -> None:
            try:
                process_module.serve(options, listener, self._shutdown)
            except VisualR1Error as error:
                self._fail(EngineRefused(f"The engine did not start: {error}"))
            except BaseException as error:  # noqa: BLE001  a process would die of it
                raw_failures.append(f"{type(error).__name__}: {error}")
                self._fail(EngineError(f"The engine did not start: {error!r}"))
            finally:
                listener.close()

        thread = threading.Thread(target=work, name="engine", daemon=True)
        self.process = _Thread(thread)
        thread.start()

    def _fail(self, error: VisualR1Error) -> None:
        if not self._told.done():
            self._told.set_exception(error)

    def ready(self, within_s: float = START_WITHIN_S) -> "_Engine":
        self.url = self._told.result(within_s)
        return self

    def close(self, patience_s: float = 20.0) -> None:
        with contextlib.suppress(Exception):
            self._told.result(START_WITHIN_S)
        self._shutdown.begin()
        self.process.wait(patience_s)

    cancel = close


announced: dict[int, "Future[str]"] = {}
raw_failures: list[str] = []
"""What would have been a traceback in the engine's log: here, and not in what the user saw."""


async def _announce(server: uvicorn.Server, _: Any, listener: Any) -> None:
    while not server.started:
        await asyncio.sleep(0.002)
    port = listener.getsockname()[1]
    announced[port].set_result(f"http://127.0.0.1:{port}")


def _begin_engine(home: Path, model: str, *_: Any, **__: Any) -> _Engine:
    return _Engine(home.absolute(), model)


process_module._announce = _announce
backend_module.begin_engine = _begin_engine


class Listener(logging.Handler):
    """What the user was told in warnings, and what failed in the engine's own log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("visual_r1.engine"):
            self.said.append(record.getMessage())
        elif record.exc_info and not isinstance(record.exc_info[1], VisualR1Error | None):
            raw_failures.append(repr(record.exc_info[1]))


@contextlib.contextmanager
def listening() -> Generator[Listener]:
    """Hear what is said while the block runs."""
    listener = Listener()
    logger = logging.getLogger("visual_r1")
    logger.addHandler(listener)
    logger.propagate = False
    raw_failures.clear()
    try:
        yield listener
    finally:
        logger.removeHandler(listener)


def known_results() -> dict[str, str]:
    """The cache as it is."""
    return dict(_results)


def know_results(results: dict[str, str]) -> None:
    """Make this the cache: that of the folder which is worked in."""
    _results.clear()
    _results.update(results)
    lost.say_once.cache_clear()  # a new process has said nothing yet


def train(config: RunConfig) -> None:
    """`python flows/train_flow.py`, from its configuration on."""
    require_sound(config)
    with open_backend(config):
        with open_run_folder(config):
            require_goal(config)
        ended = _bare(train_flow)(config=config)
    if not isinstance(ended, dict):
        raise ended.data if isinstance(ended.data, VisualR1Error) else RuntimeError(str(ended))


def resume(run: Path) -> None:
    """`visual-r1 resume RUN`."""
    train(config_of_run(run))


def evaluate(config: RunConfig, step: int, name: str) -> None:
    """`python flows/evaluate_flow.py --checkpoint STEP --name NAME`."""
    require_sound(config)
    _bare(evaluate_flow)(config=config, name=name, checkpoint=str(step))


def verify(run: Path) -> Sequence[str]:
    """What `visual-r1 verify RUN` finds."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = verify_command([str(run)])
    return [] if status == 0 else [f"status {status}", *out.getvalue().splitlines()]


def _bare(flow: Any) -> Callable[..., Any]:
    """A flow's own function: what is around it talks to Prefect's server."""
    return inspect.unwrap(flow)


def pause(seconds: float) -> None:
    """Let a clock go on, so that what carries a time differs from one reference to the next."""
    time.sleep(seconds)
