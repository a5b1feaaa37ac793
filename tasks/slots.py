"""One run at a time in one engine's home, and a few at a time on one API key.

Whoever comes second waits, says for what, and goes on when the first has ended, in whatever way. A
home is a folder of this machine, so a lock of its kernel is enough, and is free at once when its
process dies. A key may be used from several machines: there Prefect's server counts, by a global
concurrency limit that a person can change, and a lease that nobody renews ends after a minute.
"""

import os
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.states import Running

from tasks.ahead import home_of, taken_over
from tasks.attempts import covers, current_attempt, waits
from tasks.environment import prefect_server
from tasks.interruption import stop_if_interrupted
from tasks.outcome import SERVER_FAILURES
from visual_r1.backend.endpoint import choose_kind
from visual_r1.config import RunConfig
from visual_r1.errors import StorageError
from visual_r1.hashing import digest
from visual_r1.printing import open_logger
from visual_r1.storage import read_sealed, write_json

logger = open_logger("visual_r1.tasks")

LOOK_EVERY_S = 0.5
LEASE_S = 60.0
"""The shortest that Prefect's server allows."""

WAITING = "Waiting"
"""The name of the state, of type Running, of a flow run that waits for another one."""


@dataclass
class _Held:
    changing: threading.Lock = field(default_factory=threading.Lock)
    released_by: ExitStack = field(default_factory=ExitStack)
    users: int = 0


_held: dict[str, _Held] = {}
_changing = threading.Lock()


@contextmanager
def its_turn(config: RunConfig) -> Generator[None]:
    """Wait until nobody else uses what the run of `config` needs for itself, and keep it.

    Re-entrant: a command takes it before its flow does, and a sweep for all of its runs.
    """
    covers(config)
    key = os.environ.get("TINKER_API_KEY", "")
    if choose_kind(config, os.environ) == "embedded":
        home = home_of(config)
        name, taken = str(home), partial(_engine_home, home, config.run_name)
    elif key and prefect_server() is not None:
        # A digest names the limit: the key itself is in no record.
        name = f"tinker-key-{digest(key, 12)}"
        taken = partial(_api_key, name)
    else:
        yield
        return
    with _changing:
        held = _held.setdefault(name, _Held())
    # A lock for each: who waits for one home, hours perhaps, keeps nobody from letting another go.
    with held.changing:
        if not held.users:
            held.released_by.enter_context(taken())
        held.users += 1
    try:
        yield
    finally:
        with held.changing:
            held.users -= 1
            if not held.users:
                held.released_by.close()


# A home of the embedded engine.


@contextmanager
def _engine_home(home: Path, run: str) -> Generator[None]:
    """The lock of the home, which somebody else may have for hours."""
    ahead = taken_over(home)
    lock, owner = ahead or FileLock(home / "run.lock"), home / "run.json"
    try:
        home.mkdir(parents=True, exist_ok=True)
        try:
            if ahead is None:
                lock.acquire(timeout=0)
        except Timeout:
            with _waiting(
                f"Waits for the engine's home {home}, which {_who(owner)} uses: one run at a time. "
                "It goes on when that has ended; --backend.engine_home names another home."
            ):
                _acquire(lock)
    except OSError as error:
        raise StorageError(
            f"the engine's folder {home} cannot be used: {error.strerror or error}. "
            "Choose another with --backend.engine_home."
        ) from error
    try:
        with suppress(StorageError):  # it is only for who waits
            write_json(owner, {"run": run, "pid": os.getpid()})
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock) -> None:
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            stop_if_interrupted()  # the signal may have reached another thread
            time.sleep(LOOK_EVERY_S)
        else:
            return


def _who(owner: Path) -> str:
    try:
        found: Any = read_sealed(owner).content
        return f"run {found['run']} (pid {found['pid']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"


# A key of a Tinker server.


@contextmanager
def _api_key(name: str) -> Generator[None]:
    """One of the runs that may use the key at a time; without the server nobody waits."""
    released = ExitStack()
    try:
        limit = _limit_of(name)
        slot = concurrency(name, occupy=1, lease_duration=LEASE_S, strict=False)
        if limit.active_slots < limit.limit:
            released.enter_context(slot)
        else:
            with _waiting(
                f"Waits for a slot of the limit {name}: {limit.active_slots} of {limit.limit} "
                "runs use this TINKER_API_KEY. It goes on when one of them has ended; "
                f"`prefect gcl update {name} --limit N` allows more; where none is at work, the "
                f"server has lost count: `prefect gcl update {name} --active-slots 0`."
            ):
                released.enter_context(slot)
    # Whatever it is (Prefect raises a bare `Exception` of its own, too): it ends no run.
    except Exception as error:  # noqa: BLE001
        logger.warning("Nobody counts the runs of this key (%s).", type(error).__name__)
    try:
        yield
    finally:
        try:
            released.close()
        except SERVER_FAILURES as error:
            # The run has ended as it has; nobody renews the slot any more.
            logger.warning(
                "The slot of this key is free within %.0f s (%s).", LEASE_S, type(error).__name__
            )


def _limit_of(name: str) -> GlobalConcurrencyLimitResponse:
    """The limit as a person left it; where there is none, one is made for one run at a time."""
    with get_client(sync_client=True) as client:
        with suppress(ObjectNotFound):
            return client.read_global_concurrency_limit_by_name(name)
        with suppress(httpx.HTTPStatusError):  # another run was faster
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        return client.read_global_concurrency_limit_by_name(name)


@contextmanager
def _waiting(why: str) -> Generator[None]:
    """Say for the block why the flow run does not go on: in the log and as its state."""
    logger.warning("%s", why)
    waits(True)
    _show(WAITING, why)
    began = time.monotonic()
    try:
        yield
    except Exception:
        waits(False)  # who waited for the server goes on without it
        raise
    waits(False)
    _show("Running", "")
    logger.warning("It goes on after %.0f s.", time.monotonic() - began)


def _show(name: str, message: str) -> None:
    attempt = current_attempt()
    if attempt is None:
        return
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(attempt.flow_run_id)).state
            if state is not None and state.is_running():
                shown = Running(name=name, message=message or None)
                client.set_flow_run_state(UUID(attempt.flow_run_id), shown, force=True)
    except SERVER_FAILURES:
        pass  # the log has it
