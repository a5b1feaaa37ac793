"""A checkpoint on validation problems, while the run trains."""

from prefect import task
from prefect.context import TaskRunContext

from tasks.caching import Result, cache_key, run_verified
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.progress import open_progress
from visual_r1.report.wandb import track_steps
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.validate import is_due
from visual_r1.runs.validate import validate as validate_checkpoint
from visual_r1.runs.validations import Validations

VERSION = 1


def validate(config: RunConfig, dataset: Dataset, checkpoint: LedgerRow | None) -> None:
    """Validate `checkpoint` (None: the base model) where it is due, then prune old checkpoints."""
    step = checkpoint.step if checkpoint else 0
    if not is_due(config, dataset, step):
        return

    def recorded(result: Result) -> bool:
        path = result["sampler_path"]
        return path is None or Validations(config.run_dir).of(step, path) is not None

    run_verified(_validate, recorded, config, dataset, checkpoint, step)


def _key(_: TaskRunContext, parameters: Result) -> str:
    config: RunConfig = parameters["config"]
    dataset: Dataset = parameters["dataset"]
    checkpoint: LedgerRow | None = parameters["checkpoint"]
    return cache_key(
        "validate",
        VERSION,
        run=config.run_name,
        config=config.digest(),
        dataset=dataset.digest,
        sampler=checkpoint.sampler_path if checkpoint else None,
    )


@task(
    name="validate",
    task_run_name="validate step {step}",
    cache_key_fn=_key,
    persist_result=True,
    result_serializer="json",
)
def _validate(
    config: RunConfig, dataset: Dataset, checkpoint: LedgerRow | None, step: int
) -> Result:
    with open_backend(config) as backend, open_progress() as progress:
        row = validate_checkpoint(config, backend, dataset, config.run_dir, checkpoint, progress)
    track_steps(config)
    # None where the weights have gone, which a second attempt would not bring back.
    return {"step": step, "sampler_path": row.sampler_path if row else None}
