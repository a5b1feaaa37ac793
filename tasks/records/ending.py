"""How a flow run ends at Prefect: its last state says what came of it, in a sentence.

`prefect deployment run … --watch` ends with it, `prefect flow-run inspect` shows it, and so does
the page of the run. Called as a function a flow returns and raises what it did before.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

from prefect import State
from prefect.context import FlowRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed

from tasks.records.events import failed
from tasks.records.logs import logs_of, say_mistakes_in_a_sentence
from tasks.records.names import first_name
from visual_r1.errors import RunStopped, VisualR1Error
from visual_r1.wording import printable

LONGEST_MESSAGE = 1000


class _Ending:
    """What the flow run at work came to, as far as somebody said."""

    def __init__(self) -> None:
        self.sentence = ""
        self.figures: Mapping[str, Any] = {}


_ending: ContextVar[_Ending | None] = ContextVar("ending", default=None)


def conclude(sentence: str, figures: Mapping[str, Any] | None = None) -> None:
    """Say what the flow run at work came to, and its figures; what is said last counts."""
    if (ending := _ending.get()) is not None:
        ending.sentence = printable(sentence, most=LONGEST_MESSAGE)
        ending.figures = figures or {}


def conclusion() -> tuple[str, Mapping[str, Any]]:
    """What was concluded so far; an empty sentence where nothing was."""
    ending = _ending.get() or _Ending()
    return ending.sentence, ending.figures


def concluded(flow: Any) -> Any:
    """A Prefect flow whose last state has the sentence of `conclude`, or that of its error.

    An error of a user's is returned as a state and not raised: Prefect would log its stack, and put
    the name of its class before the sentence. Where Prefect is to start the flow again by itself it
    is raised, since a state that is returned counts as the last.
    """
    work: Callable[..., Any] = flow.fn
    say_mistakes_in_a_sentence()
    flow.flow_run_name = partial(_first_name, flow.name)

    @wraps(work)
    def concluding(*args: Any, **kwargs: Any) -> Any:
        token = _ending.set(ending := _Ending())
        try:
            # From here on, and not from `open_record`: before it a run waits for its turn.
            with _its_log():
                result = work(*args, **kwargs)
        except RunStopped as error:
            if FlowRunContext.get() is None:
                raise
            return Cancelled(message=str(error), data=error)
        except VisualR1Error as error:
            failed(flow.name, error)
            if _is_tried_again() or (logged := _logged(error)) is None:
                raise
            return logged
        finally:
            _ending.reset(token)
        if isinstance(result, State) or not ending.sentence:
            return result
        return Completed(message=ending.sentence, data=result)

    flow.fn = concluding
    return flow


def _its_log() -> AbstractContextManager[None]:
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return nullcontext() if run is None else logs_of(run.id)


def _first_name(flow: str) -> str:
    context = FlowRunContext.get()
    return first_name(flow, (context.parameters if context is not None else None) or {})


def _is_tried_again() -> bool:
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return run is not None and bool(run.empirical_policy.retries)


def _logged(error: VisualR1Error) -> State[Any] | None:
    """The state that the error ends its flow run in; None outside of one."""
    try:
        get_run_logger().error("%s", error, exc_info=error)
    except MissingContextError:
        return None
    return Failed(message=str(error), data=error)
