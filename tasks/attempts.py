"""Which process works on a flow run of Prefect, and how its work ended: for who finds it dead.

Prefect believes that a flow run is Running until somebody says otherwise, and a process that was
killed says nothing. So each attempt at a flow run leaves a file under `PREFECT_HOME/attempts`, and
holds a lock beside it, which the kernel frees however the process ends. `tasks.watch` looks there.

The file also says what the flow's function came to. Prefect hears of that after it; where its
server is away, or the process dies between the two, the file is what the state is mended by.
"""

import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings
from pydantic import TypeAdapter, ValidationError

from tasks.environment import prefect_server
from visual_r1.config import RunConfig
from visual_r1.errors import StorageError
from visual_r1.hashing import digest
from visual_r1.printing import open_logger
from visual_r1.runs.ledger import Ledger
from visual_r1.storage import read_sealed, write_json

logger = open_logger("visual_r1.tasks")

FORGOTTEN_AFTER_S = 30 * 86400.0

WITHIN = "VISUAL_R1_WITHIN_FLOW_RUN"
"""The variable by which processes that a flow starts are known from the one that was started for
its flow run: both carry Prefect's PREFECT__FLOW_RUN_ID."""


@dataclass(frozen=True, slots=True)
class End:
    """The state that a flow run ends in, as its function ended."""

    type: str
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process's work on a flow run."""

    flow_run_id: str
    pid: int
    host: str
    api: str = ""
    """A digest of the address of the Prefect server that knows the flow run: there may be a
    password in it. None of a temporary one."""
    parent: int = 0
    """The process that started it: Prefect's worker, or a person's shell."""
    runs: tuple[str, ...] = ()
    """The folders of the runs that it works on."""
    end: End | None = None
    """How the flow's function ended; None while it has not."""
    settled: bool = False
    """Whether the death of its process has been dealt with."""
    waits: bool = False
    """Whether it waits for another run to end."""
    deaths: int = 0
    """How often in a row it died by itself without a new checkpoint or result."""
    cuts: int = 0
    """How often in a row it died so together with the worker."""
    progress: int = 0
    """What had been done when it died last, see `done_in`."""


_SHAPE = TypeAdapter(Attempt)

_locks: dict[str, FileLock] = {}
"""Held until this process ends: Prefect's last words come after the flow's function."""

_current: list[Attempt] = []


def attempts_folder() -> Path:
    """Where the files are: with Prefect's own, since who runs its worker knows that place."""
    return get_current_settings().home / "attempts"


def server_digest(url: str | None) -> str:
    """What stands in these files for a Prefect server's address; empty for a temporary one's."""
    return "" if url is None else digest(url, 16)


@contextmanager
def attended() -> Generator[bool]:
    """Let others know, for the block, that this process works on the flow run of the context.

    Yields whether that is so: not outside of a flow run, nor in a flow that another one calls. A
    disk that refuses it is said and does not end the run.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or _current:
        yield False
        return
    flow_run_id = str(context.flow_run.id)
    _forget_old()
    try:
        _lock(flow_run_id)
    except OSError as error:
        logger.warning("Nobody will notice if this process dies: %s.", error)
    before = read_attempt(flow_run_id) or Attempt(flow_run_id, 0, "")
    _change(
        replace(
            before,
            pid=os.getpid(),
            host=socket.gethostname(),
            api=server_digest(prefect_server()),
            parent=os.getppid(),
            end=None,
            settled=False,
            waits=False,
        )
    )
    os.environ[WITHIN] = flow_run_id
    try:
        yield True
    finally:
        os.environ.pop(WITHIN, None)
        _current.clear()


def covers(config: RunConfig) -> None:
    """The flow run at work here works on the run of `config`."""
    folder = str(config.run_dir.absolute())
    if _current and folder not in _current[0].runs:
        _change(replace(_current[0], runs=(*_current[0].runs, folder)))


def waits(whether: bool) -> None:
    """The flow run at work here waits for another run, or does no longer."""
    if _current:
        _change(replace(_current[0], waits=whether))


def has_ended(end: End) -> None:
    """The function of the flow run at work here has ended so."""
    _change(replace(_current[0], end=end))


def current_attempt() -> Attempt | None:
    """The one of this process."""
    return _current[0] if _current else None


def _change(attempt: Attempt) -> None:
    _current[:] = [attempt]
    try:
        write_attempt(attempt)
    except StorageError as error:
        logger.warning("Nobody will notice if this process dies: %s", error)


def _lock(flow_run_id: str) -> None:
    if flow_run_id in _locks:
        return
    path = _file(flow_run_id, "lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=5)  # somebody may just be looking
    except Timeout as error:
        raise OSError(f"{path} is held by another process") from error
    _locks[flow_run_id] = lock


# What others find.


def write_attempt(attempt: Attempt) -> None:
    """Keep what is known of it; raises `StorageError` where the disk refuses it."""
    write_json(_file(attempt.flow_run_id, "json"), asdict(attempt))


def read_attempt(flow_run_id: str) -> Attempt | None:
    """The newest at that flow run; None where there is none, or nobody can say what it was."""
    try:
        content: Any = read_sealed(_file(flow_run_id, "json")).content
        return _SHAPE.validate_python(content)
    except (OSError, ValueError, ValidationError):
        return None


def attempts_here() -> list[Attempt]:
    """What this machine's processes left here of this server, also those still at work."""
    try:
        names = sorted(path.stem for path in attempts_folder().glob("*.json"))
    except OSError:
        return []
    found = map(read_attempt, names)
    here = (socket.gethostname(), server_digest(prefect_server()))
    return [one for one in found if one is not None and (one.host, one.api) == here]


def is_at_work(attempt: Attempt) -> bool:
    """Whether the process that took it up lives."""
    if attempt.flow_run_id in _locks:
        return True
    lock = FileLock(_file(attempt.flow_run_id, "lock"))
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # of the latter nobody knows
        return True
    lock.release()
    return False


def forget(attempt: Attempt) -> None:
    """Remove its files: there is nothing more to do about it."""
    for kind in ("json", "lock"):
        with suppress(OSError):
            _file(attempt.flow_run_id, kind).unlink(missing_ok=True)


def _forget_old() -> None:
    """Remove what nobody came to look at: where no watch is, files would gather for ever."""
    for attempt in attempts_here():
        with suppress(OSError):
            age = time.time() - _file(attempt.flow_run_id, "json").stat().st_mtime
            if age > FORGOTTEN_AFTER_S and not is_at_work(attempt):
                forget(attempt)


def _file(flow_run_id: str, kind: str) -> Path:
    return attempts_folder() / f"{flow_run_id}.{kind}"


def done_in(attempt: Attempt) -> int:
    """How much there is that an attempt adds to: checkpoints, reports of evaluations, exports."""
    count = 0
    for run in map(Path, attempt.runs):
        with suppress(OSError):
            count += (run / "ledger.jsonl").read_bytes().count(b"\n")
        with suppress(OSError):
            count += (run / "validation.jsonl").read_bytes().count(b"\n")
        count += len(list(run.glob("evaluations/*/report.json")))
        count += len(list(run.glob("export*/**/adapter_config.json")))
    return count


def kept_of(attempt: Attempt) -> str:
    """What of its runs is kept, in a sentence."""
    kept: list[str] = []
    for run in map(Path, attempt.runs):
        rows = Ledger(run).read().sound
        step = rows[-1].row.step if rows else 0
        kept.append(
            f"{run.name} up to step {step}" if step else f"{run.name} before its first step"
        )
    if not kept:
        return "Nothing had been begun."
    more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
    return f"Kept: {', '.join(kept[-3:])}{more}; the same parameters go on from there."
