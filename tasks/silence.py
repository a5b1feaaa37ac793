"""A Prefect server that takes connections and answers nothing holds nobody up for long.

It was stopped, or its machine or disk hangs. Prefect's client then waits for a minute, six times
over, with each call, and the queues of its logs and events are waited for when the process ends,
however long that takes: minutes, of a program that has done its work. So the server is asked before
the end is told to it, and again while those queues are emptied. One that is slow answers meanwhile
and is waited for. One that refuses connections may just be started anew: Prefect tells it the last
state for a minute, and the queues are given as long as with one that is silent.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from importlib import import_module
from typing import Any, Literal

import httpx
from prefect.context import SyncClientContext

from tasks.environment import prefect_server, require_answer
from visual_r1.backend.endpoint import without_secrets
from visual_r1.printing import open_logger

logger = open_logger("visual_r1.tasks")

ASKED_TIMES = 2
ANSWER_WITHIN_S = 8.0

ASKED_EVERY_S = 3.0
"""Between two questions the queues may empty themselves, which takes tenths of a second."""

LONGEST_S = 60.0
"""So long the queues are waited for where the server answers."""

SILENT = "takes connections and does not answer"

_left: list[str] = []
"""The servers that this process waits for no longer, since its last flow was at its end."""


def leave_silent_servers() -> None:
    """From here on this process does not wait at its exit for a server that does not answer."""
    # Prefect's own affair: where a version has it otherwise, the exit takes as long as there.
    with suppress(ImportError, AttributeError):
        queues: Any = import_module("prefect._internal.concurrency.services")._QueueServiceBase
        if not hasattr(queues.drain, "is_bounded"):
            queues.drain = _bounded(queues.drain)


def give_up_if_silent() -> None:
    """Ask the server of the flow run at work, whose function has ended.

    Where it is silent, every call of that flow run's client fails from then on: its last words
    would take seven minutes. A temporary server has a watch of its own (`tasks.temporary_server`).
    """
    server, context = prefect_server(), SyncClientContext.get()
    if server is None or context is None or _answer_of(server) != "silent":
        return
    _leave(server, SILENT)
    with suppress(AttributeError):
        context.client._client.close()  # pyright: ignore[reportPrivateUsage]


def wait_for_all_again() -> None:
    """A flow begins: a server that was silent at the end of the one before it may be back."""
    _left.clear()


def was_left(server: str | None) -> bool:
    """Whether it was said of that server that it is waited for no longer."""
    return server in _left


def _answer_of(server: str) -> Literal["good", "none", "silent"]:
    """What it says when it is asked; `none` where it refuses connections or answers an error."""
    for _ in range(ASKED_TIMES):
        try:
            require_answer(server, ANSWER_WITHIN_S)
        except httpx.TimeoutException:
            continue
        except httpx.HTTPError:
            return "none"
        return "good"
    return "silent"


def _leave(server: str, what: str) -> None:
    """Wait for it no longer, and say why; once."""
    if server in _left:
        return
    _left.append(server)
    logger.warning(
        "The Prefect server at %s %s: it is waited for no longer, and may lack the last records of "
        "this run. All of it is in the run's own files.",
        without_secrets(server),
        what,
    )


def _bounded(drain: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(queue: Any, at_exit: bool = False) -> Any:
        """Prefect's own, which ends at the exit where the server is silent."""
        if not at_exit or (server := prefect_server()) is None:
            return drain(queue, at_exit)
        return _emptied(queue._drain(at_exit=True), server)

    bounded.is_bounded = True  # pyright: ignore[reportFunctionMemberAccess]
    return bounded


def _emptied(done: "Future[bool]", server: str) -> bool:
    """Wait until a queue is empty, while the server answers; whether it is."""
    began = answered = time.monotonic()
    while not wait([done], 0 if server in _left else ASKED_EVERY_S).done:
        if server in _left:
            return False
        said, now = _answer_of(server), time.monotonic()
        if said == "good":
            answered = now
        if said == "silent":
            _leave(server, SILENT)
        elif now - answered > ASKED_TIMES * ANSWER_WITHIN_S:
            _leave(server, "is away")
        elif now - began > LONGEST_S:
            _leave(server, f"did not take all that it was told within {LONGEST_S:.0f} s")
    return True
