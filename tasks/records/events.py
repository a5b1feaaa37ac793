"""What automations can wait for: the events of a run, each a line of its log as well.

The table of their names and payloads is in docs/operating.md.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, get_args

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event

from tasks.records.logs import story
from tasks.records.names import resource
from tasks.records.sending import FAILURES
from visual_r1.config import RunConfig
from visual_r1.wording import printable

EventName = Literal[
    "chunk.saved", "validated", "alarm", "promoted", "budget.reached", "finished"
]  # fmt: skip
EVENTS: tuple[EventName, ...] = get_args(EventName)
PREFIX = "visual-r1."

LONGEST_TEXT = 2000


def happened(
    config: RunConfig, event: EventName, sentence: str, payload: Mapping[str, Any]
) -> None:
    """Log `sentence` and emit `visual-r1.<event>` for the run of `config`.

    Nothing is done outside of a flow run. It waits for nobody: Prefect's own thread sends events,
    those of its tasks too, and drops them where its server is gone.
    """
    if FlowRunContext.get() is None and TaskRunContext.get() is None:
        return
    story.info("%s", printable(sentence))
    with suppress(*FAILURES):
        emit_event(
            f"{PREFIX}{event}",
            resource(config),
            payload={
                "run": config.run_name,
                "sentence": printable(sentence, most=LONGEST_TEXT),
                **{
                    name: printable(value, most=LONGEST_TEXT) if isinstance(value, str) else value
                    for name, value in payload.items()
                },
            },
        )
