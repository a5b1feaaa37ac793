"""A retry that Prefect's worker cancelled for the sake of the attempt before it.

Who retries a run soon after its cancellation is heard by a worker that is not done with that, in
one of two ways (Prefect 3.9.1):

- It says Cancelled by force, whatever the state is by then, three seconds or more after it told
  the process to stop (`CancellationManager.cancel`). The flow itself has long said so.
- For each process that it starts it asks the server for all cancellations of the last minute
  (`PrefectEventSubscriber`), and takes one of its flow run for new where the answer comes after
  the process was noted down (`FlowRunCancellingObserver`): a matter of a millisecond, which a busy
  server loses. It kills the process, and says Cancelled.

Each ends a flow run as Cancelled that a person wants to go on, and nobody would ever start it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prefect.client.schemas.objects import State

WORKER_SAYS = "Flow run was cancelled successfully."
"""The message of a state that a worker, and nobody else, gives."""

REPLAYED_S = 75.0
"""So long after a cancellation no new process can be taken for it: a minute, and the ten seconds
that a worker begins before the time that a run is scheduled for."""


def begin_again_at(states: Sequence[State]) -> datetime | None:
    """When a flow run with these states, in any order, is to be started again.

    None where it was not retried, or is not Cancelled, or a person cancelled the retry as well:
    that is a Cancelling, or a Cancelled in other words. A retry that no worker had taken begins at
    once; one whose process was killed, when no other will be, since each death alarms people.
    """
    told = sorted(states, key=lambda state: state.timestamp)
    wishes = [number for number, state in enumerate(told) if state.is_scheduled()]
    if not wishes or not told[-1].is_cancelled():
        return None
    before, since = told[: wishes[-1]], told[wishes[-1] + 1 :]
    asked = [state.timestamp for state in before if state.is_cancelling()]
    said = any(state.is_cancelled() and state.message == WORKER_SAYS for state in since)
    if not asked or not said or any(state.is_cancelling() for state in since):
        return None
    was_taken = any(state.is_pending() for state in since)
    return max(asked) + timedelta(seconds=REPLAYED_S) if was_taken else datetime.now(UTC)
