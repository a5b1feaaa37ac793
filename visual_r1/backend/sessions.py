"""The end of a session with a Tinker server: told to the server where it answers, and quick.

A client that is let go of without it sends heartbeats for as long as the process lives, and logs
each one that fails.

Why a server lets its clients wait: what the SDK is told while it polls, for the progress bar.

The SDK itself logs a pause only once it has lasted for a quarter of an hour.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Literal

import tinker

Status = Literal["success", "errored"]

TOLD_WITHIN_S = 5.0
"""A session whose server does not answer within this runs out there by itself."""


def begin_to_end(
    service: tinker.ServiceClient, status: Status, *, tell: bool = True
) -> threading.Thread:
    """End the session of `service` in a thread of its own, which `join` waits for.

    Without `tell` (its server has ended, say) only what this process does for it is ended. In a
    thread, since closing a client waits for a session that it is just opening, for minutes where
    nobody answers; that session is then ended as soon as it is there.
    """
    thread = threading.Thread(
        target=_end, args=(service, status, tell), name="end of a session", daemon=True
    )
    thread.start()
    return thread


def join(threads: Iterable[threading.Thread], within_s: float = TOLD_WITHIN_S + 1.0) -> None:
    """Wait for all of them, but not for ever: one that hangs is left behind."""
    deadline = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _end(service: tinker.ServiceClient, status: Status, tell: bool) -> None:
    told = service.close(status)
    # RuntimeError: it was closed meanwhile.
    with suppress(TimeoutError, tinker.TinkerError, RuntimeError):
        told.result(timeout=TOLD_WITHIN_S if tell else 0)
    # Else it goes on telling for minutes where nobody hears, and stops the heartbeat only then.
    told.future().cancel()


WORDS = {
    "paused_capacity": "paused for capacity",
    "paused_rate_limit": "paused by the rate limit",
}

_now: dict[int, str] = {}


def observe(client: object) -> None:
    """Note the queue state that a training or sampling client is told; anything else is left."""
    # The future of a client passes for the client, and warns whoever takes it for one.
    if isinstance(client, tinker.APIFuture):
        return
    if not isinstance(client, (tinker.TrainingClient, tinker.SamplingClient)):
        return
    # A training client has an observer, a sampling client is one.
    observer: Any = getattr(client, "_queue_state_logger", client)
    before: Callable[[Any, str | None], None] = observer.on_queue_state_change

    def noted(queue_state: Any, queue_state_reason: str | None) -> None:
        words = WORDS.get(queue_state.value, "")
        if words:
            _now[id(observer)] = queue_state_reason or words
        else:
            _now.pop(id(observer), None)
        before(queue_state, queue_state_reason)

    observer.on_queue_state_change = noted


def reason_to_wait() -> str:
    """Why the server lets some request wait; empty where it works on all."""
    return next(iter(list(_now.values())), "")


def forget() -> None:
    """A session has ended, and whatever its requests waited for."""
    _now.clear()
