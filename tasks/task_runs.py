"""The task runs of a flow run that nobody works on any more: none of them is Running."""

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType

UNFINISHED = (
    StateType.PENDING,
    StateType.RUNNING,
    StateType.CANCELLING,
    StateType.SCHEDULED,
    StateType.PAUSED,
)


def close_task_runs(client: SyncPrefectClient, flow_run_id: UUID, state: State) -> None:
    """End the task runs, and the flows called, of a flow run that nobody works on."""
    done = state.is_completed()
    ended = State(
        type=StateType.COMPLETED if done else state.type if state.is_final() else StateType.CRASHED,
        message="Prefect was not told of its end." if done else "The process of its flow run died.",
    )
    parents = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    open_tasks = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=list(UNFINISHED)))
    )
    for task in client.read_task_runs(flow_run_filter=parents, task_run_filter=open_tasks):
        client.set_task_run_state(task.id, ended, force=True)
    children = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(UNFINISHED))),
    )
    for child in client.read_flow_runs(flow_run_filter=children):
        if child.deployment_id is None:  # else it has a process of its own
            client.set_flow_run_state(child.id, ended, force=True)
            close_task_runs(client, child.id, ended)
