"""What came of a piece of work, told to the client who waits for it."""

import logging
from concurrent.futures import Future
from typing import Any

from visual_r1.engine.futures import Category
from visual_r1.engine.requests import InvalidRequest
from visual_r1.errors import StorageError, VisualR1Error

log = logging.getLogger("visual_r1.engine")


def told(error: BaseException, what: str) -> tuple[str, Category]:
    """The message and category of a failure; one that nobody foresaw goes to the log in full."""
    if isinstance(error, InvalidRequest):
        return str(error), "user"
    if isinstance(error, VisualR1Error):
        log.error("%s: %s", what, error)
        # A full disk is for the user to mend: who tries again by himself would wait in vain.
        return str(error), "user" if isinstance(error, StorageError) else "server"
    log.error("%s failed", what, exc_info=error)
    return f"the engine failed in {what}: {type(error).__name__}: {error}", "server"


def failure_of(outcome: Future[Any], what: str) -> tuple[str, Category] | None:
    """What to tell of a finished piece of work that failed; None when it did not."""
    if outcome.cancelled():
        return f"{what} was cancelled: the engine is stopping", "server"
    error = outcome.exception()
    return None if error is None else told(error, what)
