"""The work pool, and whether its worker is there."""

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.operating.environment import POOL


def open_work_pool() -> None:
    """Make the pool where it is not there; one that is there stays as it was set."""
    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template)
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            try:
                client.create_work_pool(pool)
            except ObjectAlreadyExists:
                return  # the worker's own, this moment


def is_online(name: str, since: float) -> bool:
    """Whether the worker of this name has spoken to the server after `since` (seconds, UTC)."""
    with get_client(sync_client=True) as client:
        return any(
            worker.name == name
            and worker.status == WorkerStatus.ONLINE
            and worker.last_heartbeat_time is not None
            and worker.last_heartbeat_time.timestamp() >= since
            for worker in client.read_workers_for_work_pool(POOL)
        )
