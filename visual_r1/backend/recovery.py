"""A new session after a failure of the server, without anyone's help, and not for ever.

A lost future, a poisoned client, an expired session, an engine that was killed: all are met by the
same means. The work is begun again from the last checkpoint in a session of its own. What a user
has to mend (a key, a refused request, a full disk) is raised at once.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import tinker
from tinker.lib.retryable_exception import (  # pyright: ignore[reportMissingTypeStubs]
    RetryableException,
)

from visual_r1.errors import (
    BackendError,
    CredentialError,
    EngineRefused,
    IncompatibleServer,
    RequestFailed,
    RequestRefused,
    ServerBusy,
)
from visual_r1.printing import open_logger

logger = open_logger(__name__)

T = TypeVar("T")

BEGUN_AGAIN = "is begun again"
FROM_CHECKPOINT = "goes on from the last checkpoint"

HOUR_S = 3600.0

# Seconds before the first, second, ... attempt in a row; the last one counts for all that follow.
# The embedded engine takes a few seconds to start anyhow; another server may need to catch breath.
PAUSES_S = (0.0, 1.0, 5.0)
PATIENT_PAUSES_S = (2.0, 10.0, 30.0, 60.0, 300.0)


class Recoveries:
    """How often work was begun again within the last hour, and whether once more is allowed.

    One for all that a process does with a server: `most_per_hour` is for all of it together.
    """

    def __init__(
        self,
        most_per_hour: int,
        *,
        patient: bool = False,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._most = most_per_hour
        self._pauses_s = PATIENT_PAUSES_S if patient else PAUSES_S
        self._clock, self._pause = clock, pause
        self._begun: deque[float] = deque()

    def run(
        self,
        work: Callable[[], T],
        what: str,
        how: str = BEGUN_AGAIN,
        passes: Callable[[Exception], bool] | None = None,
    ) -> T:
        """The result of `work`, which is begun again where the server failed at it.

        `what` names the work for messages ("training"), `how` says with what it begins.
        `passes` says after which failures, by default `may_pass`. A server that is busy and says
        for how long is given that time, up to an hour in all. Raises what `work` raises where that
        would be the same the second time, and `BackendError` where it was begun again too often.
        """
        in_a_row, waited_s = 0, 0.0
        while True:
            try:
                return work()
            except (BackendError, tinker.TinkerError, RetryableException) as error:
                pause_s = self._pauses_s[min(in_a_row, len(self._pauses_s) - 1)]
                if isinstance(error, ServerBusy):
                    pause_s = max(pause_s, error.retry_after_s or 0.0)
                    waited_s += pause_s
                if not (passes or may_pass)(error) or waited_s > HOUR_S:
                    raise
                self._allow(error, what)
                in_a_row += 1
                logger.warning(
                    "%s Recovering: %s %s%s.",
                    without_advice(error),
                    what,
                    how,
                    f" in {pause_s:.0f} s" if pause_s else "",
                )
                self._pause(pause_s)

    def _allow(self, error: Exception, what: str) -> None:
        now = self._clock()
        while self._begun and now - self._begun[0] > HOUR_S:
            self._begun.popleft()
        if len(self._begun) >= self._most:
            raise BackendError(
                f"The server failed again at {what}, after {len(self._begun)} recoveries within an "
                f"hour (backend.recoveries_per_hour): {without_advice(error)} What is saved "
                "stays; the same command goes on from the last checkpoint."
            ) from error
        self._begun.append(now)


def may_pass(error: Exception) -> bool:
    """Whether the same work may succeed the second time: what a server did, not what a user wrote.

    A missing key or a refused request is the same again; a server that died, a lost connection or
    an expired session is not.
    """
    if isinstance(error, RequestFailed):
        return True
    lasting = (CredentialError, EngineRefused, IncompatibleServer, RequestRefused)
    return not isinstance(error, lasting)


def without_advice(error: Exception) -> str:
    """Without the advice to start the command again: that is what is being done."""
    text = str(error) or type(error).__name__
    kept = [
        sentence
        for sentence in text.split(". ")
        if "from the last checkpoint" not in sentence and "same command" not in sentence
    ]
    whole = ". ".join(kept) or text
    return whole if whole.endswith((".", "!", "?")) else whole + "."
