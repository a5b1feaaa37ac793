"""A user's mistake ends a flow run with its sentence: no traceback, in none of Prefect's logs.

Prefect logs what a flow raises three times: when it ends, when its engine ends, and when its
process ends, each with sixty lines. What Visual R1 raises on purpose is a sentence already, and
stands in the state that the run ends in.
"""

import logging

from prefect import State
from prefect.states import Failed

from visual_r1.errors import VisualR1Error

_OF_ENDS = ("prefect.flow_runs", "prefect.engine", "prefect.flow_engine")
_OF_TASKS = ("prefect.task_runs", "prefect.task_engine")


def ended_by(error: VisualR1Error) -> State:
    """The state that a flow run ends in; called as a function, the flow raises `error`."""
    return Failed(message=str(error), data=error)


def _is_no_repetition(record: logging.LogRecord) -> bool:
    """Whether it says more than that the run ended in an error whose sentence its state holds."""
    return not _is_sentence(record)


def _as_a_sentence(record: logging.LogRecord) -> bool:
    """Keeps every record, without the traceback behind a sentence."""
    if _is_sentence(record):
        record.exc_info = record.exc_text = None
    return True


def _is_sentence(record: logging.LogRecord) -> bool:
    return bool(record.exc_info) and isinstance(record.exc_info[1], VisualR1Error)


for _name in _OF_ENDS:
    logging.getLogger(_name).addFilter(_is_no_repetition)
for _name in _OF_TASKS:
    logging.getLogger(_name).addFilter(_as_a_sentence)
