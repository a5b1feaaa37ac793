"""The last checkpoint to a PEFT adapter folder and a `tinker://` sampler path."""

from prefect import task
from prefect.context import TaskRunContext

from tasks.caching import Result, cache_key, run_verified
from visual_r1.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.export import export as export_checkpoint
from visual_r1.export import read_export
from visual_r1.ledger import LedgerRow
from visual_r1.progress import open_progress

VERSION = 1


def export(config: RunConfig, checkpoint: LedgerRow) -> Result:
    """What was exported: `sampler_path`, `adapter` (a folder), `trained`, `step`."""
    return run_verified(_export, lambda result: _complete(config, result), config, checkpoint)


def _key(_: TaskRunContext, parameters: Result) -> str:
    config: RunConfig = parameters["config"]
    checkpoint: LedgerRow = parameters["checkpoint"]
    run = str(config.run_dir.absolute())
    return cache_key("export", VERSION, run=run, state=checkpoint.state_path)


@task(
    name="export",
    cache_key_fn=_key,
    persist_result=True,
    result_serializer="json",
)
def _export(config: RunConfig, checkpoint: LedgerRow) -> Result:
    with open_backend(config) as backend, open_progress() as progress:
        exported = export_checkpoint(config, backend, config.run_dir, checkpoint, progress)
    return {
        "adapter": str(exported.adapter_dir),
        "sampler_path": exported.sampler_path,
        "trained": exported.trained,
        "step": exported.step,
    }


def _complete(config: RunConfig, result: Result) -> bool:
    there = read_export(config.run_dir)
    return there is not None and there.sampler_path == result["sampler_path"]
