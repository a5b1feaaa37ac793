"""When a task's earlier result counts: its key is the same, and what it points at is there."""

import logging
from collections.abc import Callable
from typing import Any

from prefect import State, Task
from prefect.client.schemas.objects import TaskRun

from visual_r1.hashing import digest

logger = logging.getLogger("visual_r1.tasks")

Result = dict[str, Any]


def cache_key(task: str, version: int, **what: Any) -> str:
    """`<task>-v<version>-<hash of all that the result depends on>`.

    The version is raised by hand when the meaning of the task changes: a hash of its source would
    miss a change in what it imports, and would throw GPU hours away for a comment.
    """
    return f"{task}-v{version}-{digest(what, 24)}"


def run_verified(
    task: Task[..., Result], still_there: Callable[[Result], bool], *args: Any
) -> Result:
    """The task's result, from its cache only where `still_there(result)` holds."""
    result = task(*args)
    if still_there(result):
        return result
    return task.with_options(refresh_cache=True)(*args)


async def worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Try again what the network did, not what a user wrote; and say so, for the pauses are long.

    For tasks that use no Tinker server: failures of that are met in `Backend.recoveries`, in one
    place for flows and library.
    """
    error = await state.aresult(raise_on_failure=False)
    if not isinstance(error, (ConnectionError, TimeoutError)):
        return False
    delays = task.retry_delay_seconds
    if isinstance(delays, list):
        pause = delays[min(run.run_count, len(delays)) - 1]
        logger.warning("%s failed: %s Trying again in %.0f s.", task.name, error, pause)
    return True
