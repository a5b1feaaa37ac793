"""What automations can wait for: the events of a run, each a line of its log as well.

The table of their names and payloads is in docs/operating.md.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, get_args

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event

from tasks.records.logs import story
from tasks.records.names import resource
from tasks.records.sending import emit
from visual_r1.config import RunConfig
from visual_r1.errors import VisualR1Error
from visual_r1.wording import printable

EventName = Literal[
    "chunk.saved", "validated", "alarm", "promoted", "budget.reached", "finished", "failed"
]  # fmt: skip
EVENTS: tuple[EventName, ...] = get_args(EventName)
PREFIX = "visual-r1."

LONGEST_TEXT = 2000


def happened(
    config: RunConfig, event: EventName, sentence: str, payload: Mapping[str, Any]
) -> None:
    """Log `sentence` and emit `visual-r1.<event>` for the run of `config`.

    Nothing is done outside of a flow run.
    """
    if FlowRunContext.get() is None and TaskRunContext.get() is None:
        return
    story.info("%s", printable(sentence))
    _emit(event, resource(config), config.run_name, sentence, payload)


def failed(flow: str, error: VisualR1Error) -> None:
    """Emit `visual-r1.failed` for the flow run at work; which run it is of may not be known yet."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    whose = {"prefect.resource.id": f"visual-r1.flow.{flow}", "visual-r1.flow": flow}
    payload = {"flow": flow, "error": type(error).__name__}
    _emit("failed", whose, context.flow_run.name, str(error), payload)


def _emit(
    event: EventName,
    whose: Mapping[str, str],
    name: str,
    sentence: str,
    payload: Mapping[str, Any],
) -> None:
    """The sentence is the resource's name too, the one text that `--watch` shows of an event."""
    told = printable(sentence, most=LONGEST_TEXT)
    shown = {
        key: printable(value, most=LONGEST_TEXT) if isinstance(value, str) else value
        for key, value in payload.items()
    }
    emit(
        event,
        partial(
            emit_event,
            f"{PREFIX}{event}",
            {**whose, "prefect.resource.name": printable(f"{name}: {told}")},
            occurred=datetime.now(UTC),
            payload={"run": name, "sentence": told, **shown},
        ),
    )
