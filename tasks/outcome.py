"""How a flow's work ended, whatever Prefect can be told of it.

Prefect's records are for its user to look at; what was done is in the run's folder. So a run that
is finished is finished, and one that failed says why, also where Prefect's server is gone.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import httpx
from prefect import State
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Crashed

from tasks.attempts import End, attended, current_attempt, has_ended, kept_of
from tasks.environment import prefect_server, require_answer
from tasks.interruption import repeat_dropped, was_interrupted
from tasks.leases import go_on_without_a_lease
from tasks.silence import (
    give_up_if_silent,
    leave_silent_servers,
    wait_for_all_again,
    was_left,
)
from tasks.task_runs import close_task_runs
from visual_r1.backend.endpoint import without_secrets
from visual_r1.errors import ConfigError, VisualR1Error
from visual_r1.garbage import collect_nothing, collect_what_is_new
from visual_r1.printing import open_logger
from visual_r1.secrecy import hide_secrets

P = ParamSpec("P")
R = TypeVar("R")

logger = open_logger("visual_r1.tasks")

SERVER_FAILURES = (httpx.HTTPError, OSError, RuntimeError, PrefectException, ValueError)
"""What a call of Prefect raises whose server is gone, refuses, is closed meanwhile, or answers what
makes no sense (a proxy's page in its place)."""

_ends: list[BaseException | None] = []
"""How the flow's function ended last, where it did: None where it returned."""

_told: list[Callable[[], None]] = []
"""Who is told when it has ended."""

_within: ContextVar[bool] = ContextVar("within a remembered flow", default=False)
"""Set in a flow and whatever it calls: of flows within flows the outermost is remembered."""
_owed: list[Callable[[], None]] = []
"""What is done once, when the next flow's function has ended."""

_once_told: list[Callable[[], None]] = []
"""What is done when somebody was told what the flow at work came to."""

_by_command: ContextVar[bool] = ContextVar("run by a command", default=False)
"""Set where a command runs the flow: that tells a person how it ended, and says when it has."""


def remembered(flow: Any) -> Any:
    """A Prefect flow whose function's end is remembered; for `outcome_in_spite_of`."""
    work: Callable[..., Any] = flow.fn
    go_on_without_a_lease()  # before Prefect begins the flow, which takes its lease first
    leave_silent_servers()

    # Prefect has looked at the function itself: where its file is, what parameters it takes.
    @wraps(work)
    def remembering(*args: Any, **kwargs: Any) -> Any:
        if _within.get():
            return work(*args, **kwargs)
        repeat_dropped()
        wait_for_all_again()
        if "PREFECT__FLOW_RUN_ID" in os.environ:
            collect_nothing()  # a worker's process, which is this flow's alone
        collect_what_is_new(seldom=True)
        entered = _within.set(True)
        _once_told.clear()  # of a flow before it, which was interrupted
        try:
            with attended() as is_outermost:
                if is_outermost:
                    _close_earlier_attempts()
                return _remember(lambda: work(*args, **kwargs), is_noted=is_outermost)
        finally:
            _within.reset(entered)
            give_up_if_silent()
            for tell in (*_told, *_owed):
                tell()
            _owed.clear()

    flow.fn = remembering
    return flow


def _remember(work: Callable[[], R], *, is_noted: bool) -> R:
    """What `work` returns; how it ended is remembered, and noted for who finds its process dead."""
    try:
        result = work()
    except BaseException as error:
        _once_told.clear()  # the error alone is told
        _ends[:] = [error]
        if is_noted:
            _note_error(error)
        raise
    # A state with an error in it, which the flow ends in, or whatever else it returns.
    data = getattr(result, "data", None)
    _ends[:] = [data if isinstance(data, VisualR1Error) else None]
    if is_noted:
        _note_result(result)
    if not _by_command.get():
        was_told()  # by what was noted just now, or by what is returned
    return result


def _close_earlier_attempts() -> None:
    """A flow run that is retried: what an attempt that died has left as Running is not."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    if not context.flow_run.run_count:
        return
    try:
        with get_client(sync_client=True) as client:
            close_task_runs(client, context.flow_run.id, Crashed())
    except SERVER_FAILURES as failure:
        logger.warning("Older task runs may be shown as Running (%s).", type(failure).__name__)


def _note_result(result: object) -> None:
    if isinstance(result, State):
        has_ended(End(result.type.value, result.name or "", result.message or ""))
    else:
        has_ended(End("COMPLETED", "Completed", "All that was to be done is done."))


def _note_error(error: BaseException) -> None:
    """How a flow ended by `error`; nothing where it was killed, and not by who wants it to stop."""
    if was_interrupted(error):
        _say_what_is_kept()
    elif isinstance(error, Exception):
        has_ended(End("FAILED", "Failed", hide_secrets(str(error))))


def _say_what_is_kept() -> None:
    """Where a person has cancelled this flow run: it has stopped, and what of it is kept.

    Prefect's worker says Cancelled only when it has loaded the flow's module anew in a process of
    its own, to look for hooks, which takes 8 to 20 s.
    """
    attempt = current_attempt()
    assert attempt is not None
    if (server := prefect_server()) is None:
        return  # nobody else can reach a temporary server: it was Ctrl-C
    flow_run_id = UUID(attempt.flow_run_id)
    try:
        require_answer(server)
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run_id).state
            if state is None or not (state.is_cancelling() or state.is_cancelled()):
                return
            end = End("CANCELLED", "Cancelled", f"Stopped by a person. {kept_of(attempt)}")
            has_ended(end)
            logger.warning("%s", end.message)
            client.set_flow_run_state(flow_run_id, Cancelled(message=end.message), force=True)
    except SERVER_FAILURES as failure:
        logger.warning("Prefect could not be told of the stop (%s).", type(failure).__name__)


def when_it_ends(do: Callable[[], None]) -> None:
    """Have `do` called when the function of the flow at work has ended, however it ends."""
    _owed.append(do)


def once_told(do: Callable[[], None]) -> None:
    """Have `do` called when somebody was told what the flow at work came to: not where it is killed
    before, nor where an error ends it."""
    _once_told.append(do)


def was_told() -> None:
    """Somebody was told what the flow came to.

    A command says so when it has shown that to its user. Without one the flow says so itself: how
    it ended is noted then, and Prefect is told of it also where this process dies.
    """
    for do in _once_told:
        do()
    _once_told.clear()


@contextmanager
def outcome_in_spite_of(
    server: str | None, when_done: Callable[[], None] = lambda: None
) -> Generator[None]:
    """Run a flow within; where Prefect's server fails it, it ends as its function ended.

    `server` is its address; None is the temporary one. `when_done` is called when the function has
    ended, and Prefect's last records are all that is left. Who has shown its end to a user says so
    by `was_told`. Raises `ConfigError` where the function was never begun.
    """
    _ends.clear()
    _told[:] = [when_done]
    by_command = _by_command.set(True)
    try:
        yield
    except VisualR1Error:
        raise
    except SERVER_FAILURES as error:
        if not _ends:
            name = (
                f"The Prefect server at {without_secrets(server)}"
                if server
                else "Prefect's temporary server"
            )
            raise ConfigError(
                f"{name} was lost before the run began ({type(error).__name__}: {error}): start "
                "the same command again; it goes on from the last checkpoint."
            ) from error
        [end] = _ends
        if end is error:
            raise
        if end is not None:
            raise end from error
        if server is not None and not was_left(server):
            logger.warning(
                "The Prefect server at %s could not be told that the run ended (%s).",
                without_secrets(server),
                type(error).__name__,
            )
    finally:
        _by_command.reset(by_command)
