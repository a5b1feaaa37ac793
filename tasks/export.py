"""A checkpoint to a PEFT adapter folder and a `tinker://` sampler path."""

from prefect import task
from prefect.context import TaskRunContext

from tasks.caching import Result, cache_key, run_verified
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.progress import open_progress
from visual_r1.runs.export import EXPORT, adapter_folder, read_export
from visual_r1.runs.export import export as export_checkpoint
from visual_r1.runs.ledger import LedgerRow

VERSION = 1


def export(config: RunConfig, checkpoint: LedgerRow, into: str = EXPORT) -> Result:
    """What was exported into the folder `into` of the run: `sampler_path`, `adapter` (a folder),
    `trained`, `step`."""

    def complete(result: Result) -> bool:
        there = read_export(config.run_dir, into)
        return there is not None and there.sampler_path == result["sampler_path"]

    return run_verified(_export, complete, config, checkpoint, into)


def _key(_: TaskRunContext, parameters: Result) -> str:
    config: RunConfig = parameters["config"]
    checkpoint: LedgerRow = parameters["checkpoint"]
    run = str(config.run_dir.absolute())
    where = {"run": run, "into": parameters["into"]}
    return cache_key("export", VERSION, state=checkpoint.state_path, **where)


@task(
    name="export",
    cache_key_fn=_key,
    persist_result=True,
    result_serializer="json",
)
def _export(config: RunConfig, checkpoint: LedgerRow, into: str) -> Result:
    with open_backend(config) as backend, open_progress() as progress:
        exported = export_checkpoint(config, backend, config.run_dir, checkpoint, progress, into)
    return {
        "adapter": str(adapter_folder(config.run_dir, into)),
        "sampler_path": exported.sampler_path,
        "trained": exported.trained,
        "step": exported.step,
    }
