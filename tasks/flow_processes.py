"""Which processes of this machine are of flow runs, and which is a worker of them.

Prefect starts a flow's process by several commands (`prefect.engine`, `prefect.flow_engine`, a
launcher of its own under `uv run`), and a deployment may name another. What all have is the
variable with the flow run's id.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress

import psutil

from tasks.attempts import WITHIN
from tasks.own_server import WORKER_NAME

_HOOK = "hook"
"""Stands in the command of a process that looks for hooks of a flow that has ended."""


def processes_of(flow_run_ids: Collection[str]) -> set[str]:
    """Those of the flow runs that a process here was started for, which lives.

    Whatever its command is: Prefect has several, and a deployment may have its own. It is known by
    the variable that Prefect gives it. What it starts itself inherits that, with the mark of
    `tasks.attempts`: an engine and W&B's service outlive it by some seconds.
    """
    return {
        flow_run_id
        for flow_run_id, environment, command in _started_for_flow_runs()
        if flow_run_id in flow_run_ids
        and environment.get(WITHIN) != flow_run_id
        and _HOOK not in command
    }


def hooks_of(flow_run_id: str) -> bool:
    """Whether a process looks for hooks in the flow's module, for a flow run that has ended."""
    return any(
        known == flow_run_id and _HOOK in command for known, _, command in _started_for_flow_runs()
    )


def _started_for_flow_runs() -> Iterator[tuple[str, Mapping[str, str], Sequence[str]]]:
    """The flow run's id, the environment and the command of processes that carry such an id."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            environment = process.environ()
            if flow_run_id := environment.get("PREFECT__FLOW_RUN_ID"):
                yield flow_run_id, environment, process.cmdline()


def others_run(*, with_worker: bool = False) -> bool:
    """Whether processes run here that may be of a flow run, and nobody may know of which: another
    user's. With `with_worker` a worker that has the name of ours counts too."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            command = process.cmdline()
            if _is_of_prefect(command) or (with_worker and WORKER_NAME in command):
                try:
                    process.environ()
                except psutil.AccessDenied:
                    return True
    return False


def _is_of_prefect(command: Sequence[str]) -> bool:
    """Whether a command is one by which Prefect starts a flow run: a module of its own, behind `-m`
    (`prefect.yaml` in an editor is none), or a file of its runner."""
    for before, word in zip(("", *command), command, strict=False):
        is_module = before.startswith("-") and before.endswith("m") and word.startswith("prefect.")
        if is_module and not word.startswith("prefect.server"):
            return True
        if "/prefect/runner/" in word and word.endswith(".py"):
            return True
    return False


def worker_since(name: str) -> float | None:
    """When the worker of that name that lives here began, by the clock; None where none does."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if {name, "worker"} <= set(process.cmdline()):
                return process.create_time()
    return None


def is_worker(pid: int) -> bool:
    """Whether process `pid` lives and is a worker of Prefect's."""
    try:
        return "worker" in psutil.Process(pid).cmdline()
    except (psutil.Error, OSError, ValueError):
        return False
