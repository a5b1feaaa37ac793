"""The steps between two checkpoints: the unit of recovery (`Backend.recoveries`) and of caching."""

from dataclasses import asdict

from prefect import task
from prefect.context import TaskRunContext

from tasks.caching import Result, cache_key, run_verified
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.progress import open_progress
from visual_r1.report.wandb import track_steps
from visual_r1.runs.chunk import plan_chunk
from visual_r1.runs.chunk import train_chunk as run_chunk
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.resume import require_goal, resume_point

VERSION = 1


def settle_ledger(config: RunConfig, dataset: Dataset) -> None:
    """Set aside the checkpoints that cannot be gone on from, or that the user wants to go behind.

    Asks the server only where steps are left to do. Raises `RunError` where fewer are wanted than
    the run has.
    """
    if not require_goal(config):
        return
    with open_backend(config) as backend:
        resume_point(config, backend, dataset, config.run_dir)


def train_chunk(config: RunConfig, dataset: Dataset, start: LedgerRow | None) -> LedgerRow:
    """The checkpoint that follows `start` (None: the beginning), trained where it is not there."""
    number = plan_chunk(config, start.step if start else 0).number

    def in_ledger(result: Result) -> bool:
        # Not the whole row: the lifetime of a checkpoint is renewed.
        kept = {row.step: row.state_path for row in Ledger(config.run_dir).rows()}
        return kept.get(result["step"]) == result["state_path"]

    return LedgerRow(**run_verified(_train_chunk, in_ledger, config, dataset, start, number))


def _key(_: TaskRunContext, parameters: Result) -> str:
    config: RunConfig = parameters["config"]
    dataset: Dataset = parameters["dataset"]
    start: LedgerRow | None = parameters["start"]
    return cache_key(
        "train_chunk",
        VERSION,
        run=str(config.run_dir.absolute()),
        config=config.digest(),
        dataset=dataset.digest,
        start=start.state_path if start else None,
        end=plan_chunk(config, start.step if start else 0).end,
    )


@task(
    name="train_chunk",
    task_run_name="train_chunk {number}",
    cache_key_fn=_key,
    persist_result=True,
    result_serializer="json",
)
def _train_chunk(
    config: RunConfig, dataset: Dataset, start: LedgerRow | None, number: int
) -> Result:
    del number  # for the name of the task run
    first = start.step if start else 0
    done = [row for row in Ledger(config.run_dir).rows() if row.step > first]
    if done:
        return asdict(done[0])
    with open_backend(config) as backend, open_progress() as progress:
        row = run_chunk(config, backend, dataset, config.run_dir, start, progress)
    track_steps(config)
    return asdict(row)
