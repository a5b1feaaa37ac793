"""The log of a run at Prefect: what the library warns of, and a line a step, from any thread.

Both go to Prefect alone and are printed nowhere: a terminal has its own lines, by `progress` and by
whoever shows warnings there. What is wrong with what a user wrote is said in its sentence; the
stack below it says nothing more, and Prefect's engine would log it up to three times.
"""

import copy
import logging
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID
from weakref import WeakSet

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_logger
from prefect.logging.handlers import APILogHandler

from visual_r1.errors import VisualR1Error
from visual_r1.printing import PrintableFormatter, open_logger

story = open_logger("visual_r1.run")
"""What happens, a line each; heard by Prefect's log of the flow run at work alone."""

_LIBRARY = open_logger("visual_r1")
_ENGINE = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")

_at_work: list[UUID] = []
"""The flow runs of this process that are at work, the newest last."""


class RunLogHandler(APILogHandler):
    """Prefect's own, which also takes what a thread says that knows of no flow run."""

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record; as of the newest flow run, where its thread is of none."""
        if _run_is_known():
            # Who sets PREFECT_LOGGING_EXTRA_LOGGERS=visual_r1 has it from Prefect already.
            twice = any(type(other) is APILogHandler for other in _LIBRARY.handlers)
            if twice and record.name != story.name:
                return
        elif _at_work:
            record = copy.copy(record)
            record.flow_run_id = str(_at_work[-1])
        else:
            return
        super().emit(record)


def _run_is_known() -> bool:
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


_handler = RunLogHandler()
_handler.setFormatter(PrintableFormatter("%(message)s"))


@contextmanager
def logs_of(flow_run: UUID) -> Generator[None]:
    """For the block, what is logged below `visual_r1` goes to the log of that flow run too."""
    if not _at_work:
        _LIBRARY.addHandler(_handler)
        story.addHandler(_handler)
        story.setLevel(logging.INFO)
        story.propagate = False
    _at_work.append(flow_run)
    try:
        yield
    finally:
        _at_work.remove(flow_run)
        if not _at_work:
            _LIBRARY.removeHandler(_handler)
            story.removeHandler(_handler)


class SentenceAlone(logging.Filter):
    """Has an error that is meant for a user logged once and without the stack below it."""

    def __init__(self) -> None:
        super().__init__()
        self._said: WeakSet[VisualR1Error] = WeakSet()

    def filter(self, record: logging.LogRecord) -> bool:
        """Make the sentence of the record; False where it was logged before."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, VisualR1Error):
            return True
        if error in self._said:
            return False
        self._said.add(error)
        record.msg, record.args = str(error), None
        record.exc_info = record.exc_text = None
        return True


def say_mistakes_in_a_sentence() -> None:
    """From here on Prefect's engine logs a `VisualR1Error` as its sentence, once."""
    for name in _ENGINE:
        engine = get_logger(name)
        if _sentence_alone not in engine.filters:
            engine.addFilter(_sentence_alone)


_sentence_alone = SentenceAlone()
