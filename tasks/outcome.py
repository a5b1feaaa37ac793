"""How a flow's work ended, whatever Prefect can be told of it.

Prefect's records are for its user to look at; what was done is in the run's folder. So a run that
is finished is finished, and one that failed says why, also where Prefect's server is gone.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect.exceptions import PrefectException

from visual_r1.errors import ConfigError, VisualR1Error
from visual_r1.printing import open_logger

P = ParamSpec("P")
R = TypeVar("R")

logger = open_logger("visual_r1.tasks")

SERVER_FAILURES = (httpx.HTTPError, OSError, RuntimeError, PrefectException)
"""What a call of Prefect raises whose server is gone, refuses, or is closed meanwhile."""

_ends: list[BaseException | None] = []
"""How the flow's function ended last, where it did: None where it returned."""

_told: list[Callable[[], None]] = []
"""Who is told when it has ended."""

_owed: list[Callable[[], None]] = []
"""What is done once, when the next flow's function has ended."""


def remembered(flow: Any) -> Any:
    """A Prefect flow whose function's end is remembered; for `outcome_in_spite_of`."""
    work: Callable[..., Any] = flow.fn

    # Prefect has looked at the function itself: where its file is, what parameters it takes.
    @wraps(work)
    def remembering(*args: Any, **kwargs: Any) -> Any:
        try:
            result = work(*args, **kwargs)
        except BaseException as error:
            _ends[:] = [error]
            raise
        else:
            # A state with an error in it, which the flow ends in, or whatever else it returns.
            data = getattr(result, "data", None)
            _ends[:] = [data if isinstance(data, VisualR1Error) else None]
            return result
        finally:
            for tell in (*_told, *_owed):
                tell()
            _owed.clear()

    flow.fn = remembering
    return flow


def when_it_ends(do: Callable[[], None]) -> None:
    """Have `do` called when the function of the flow at work has ended, however it ends."""
    _owed.append(do)


@contextmanager
def outcome_in_spite_of(
    server: str | None, when_done: Callable[[], None] = lambda: None
) -> Generator[None]:
    """Run a flow within; where Prefect's server fails it, it ends as its function ended.

    `server` is its address; None is the temporary one. `when_done` is called when the function has
    ended, and Prefect's last records are all that is left. Raises `ConfigError` where the function
    was never begun.
    """
    _ends.clear()
    _told[:] = [when_done]
    try:
        yield
    except VisualR1Error:
        raise
    except SERVER_FAILURES as error:
        if not _ends:
            name = f"The Prefect server at {server}" if server else "Prefect's temporary server"
            raise ConfigError(
                f"{name} was lost before the run began ({type(error).__name__}: {error}): start "
                "the same command again; it goes on from the last checkpoint."
            ) from error
        [end] = _ends
        if end is error:
            raise
        if end is not None:
            raise end from error
        if server is not None:
            logger.warning(
                "The Prefect server at %s could not be told that the run ended (%s).",
                server,
                type(error).__name__,
            )
