"""A flow run that crashed before its function was called: nothing here knows of it but Prefect.

`prefect.engine` asks the server for its flow run before it loads the flow, and ends where it gets
no answer: with a server that is started anew just then, or answers a 500 once. The worker tells
Crashed when the server is back. No attempt has left a file (`tasks.attempts`), so what Prefect
noted of the run is all there is to judge by.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from prefect.client.schemas.objects import FlowRun, State, StateType

LEFT_TO_A_PERSON = "is not started again"
"""What the message says of a run that has died often enough."""

_BEFORE_IT_BEGAN = (StateType.PENDING, StateType.CRASHED)


def crashed_unbegun_s(run: FlowRun, states: Sequence[State]) -> float | None:
    """For how long a flow run that crashed before it began has been left so, in seconds.

    `states` are those that it ever had, in any order. None where it is not Crashed, was Running
    since it was scheduled last, or is left to a person, whatever a worker said of it later.
    """
    if run.state is None or not run.state.is_crashed():
        return None
    wishes = [state.timestamp for state in states if state.is_scheduled()]
    since = [state for state in states if not wishes or state.timestamp > max(wishes)]
    if any(state.type not in _BEFORE_IT_BEGAN for state in since):
        return None
    if any(LEFT_TO_A_PERSON in (state.message or "") for state in (*since, run.state)):
        return None
    # A worker dates its word by when it first tried to tell it: what was said since counts as well.
    newest = max(state.timestamp for state in (*states, run.state))
    return (datetime.now(UTC) - newest).total_seconds()
