"""Why a server lets its clients wait: what the SDK is told while it polls, for the progress bar.

The SDK itself logs a pause only once it has lasted for a quarter of an hour.
"""

from collections.abc import Callable
from typing import Any

import tinker

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
