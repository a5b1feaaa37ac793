"""Sessions with a Tinker server: how they end, and why their requests have to wait.

A client that is let go of without an end of its session sends heartbeats for as long as the process
lives, and logs each one that fails. So the end is told to the server, where it answers, and quick.

A server that lets its clients wait says why while the SDK polls; the SDK itself logs that only once
it has lasted for a quarter of an hour. Here it is noted for the progress bar.
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


def end_session(
    service: tinker.ServiceClient, status: Status, *, tell: bool = True
) -> threading.Thread:
    """End the session of `service` in a thread of its own, which `wait_for_ends` waits for.

    Without `tell` (its server has ended, say) only what this process does for it is ended. In a
    thread, since closing a client waits for a session that it is just opening, for minutes where
    nobody answers; that session is then ended as soon as it is there.
    """

    def end() -> None:
        told = service.close(status)
        # RuntimeError: it was closed meanwhile.
        with suppress(TimeoutError, tinker.TinkerError, RuntimeError):
            told.result(timeout=TOLD_WITHIN_S if tell else 0)
        # Else it goes on telling for minutes where nobody hears, and stops the heartbeat only then.
        told.future().cancel()

    thread = threading.Thread(target=end, name="end of a session", daemon=True)
    thread.start()
    return thread


def wait_for_ends(
    threads: Iterable[threading.Thread], within_s: float = TOLD_WITHIN_S + 1.0
) -> None:
    """Wait for all of them, but not for ever: one that hangs is left behind."""
    deadline = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


_PAUSES = {
    "paused_capacity": "paused for capacity",
    "paused_rate_limit": "paused by the rate limit",
}

_waiting: dict[int, str] = {}


def note_pauses(client: object) -> None:
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
        words = _PAUSES.get(queue_state.value, "")
        if words:
            _waiting[id(observer)] = queue_state_reason or words
        else:
            _waiting.pop(id(observer), None)
        before(queue_state, queue_state_reason)

    observer.on_queue_state_change = noted


def reason_to_wait() -> str:
    """Why the server lets some request wait; empty where it works on all."""
    return next(iter(list(_waiting.values())), "")


def forget_pauses() -> None:
    """A session has ended, and whatever its requests waited for."""
    _waiting.clear()
