"""Both evaluations to a summary, a page and a table."""

from prefect import task
from prefect.context import TaskRunContext

from tasks.caching import Result, cache_key, run_verified
from visual_r1.config import RunConfig
from visual_r1.report.page import write_html
from visual_r1.report.summary import cost_of_run
from visual_r1.report.summary import summarize as summarize_run
from visual_r1.report.terminal import print_summary
from visual_r1.report.wandb import track_run
from visual_r1.runs.ledger import LedgerRow

VERSION = 1


def summarize(config: RunConfig, checkpoint: LedgerRow, wall_seconds: float) -> Result:
    """The content of `summary.json`, also shown as a table; `report.html` stands beside it."""
    result = run_verified(_summarize, lambda _: _complete(config), config, checkpoint, wall_seconds)
    # From the cache or not, the table shows the wall time of the run that did the work.
    summary = summarize_run(
        config.run_dir, steps=checkpoint.step, wall_seconds=result["wall_seconds"]
    )
    print_summary(summary, cost_of_run(config.run_dir), config.run_dir / "report.html")
    return summary.to_json()


def _key(_: TaskRunContext, parameters: Result) -> str:
    config: RunConfig = parameters["config"]
    checkpoint: LedgerRow = parameters["checkpoint"]
    run = str(config.run_dir.absolute())
    return cache_key("summarize", VERSION, run=run, sampler=checkpoint.sampler_path)


@task(name="summarize", cache_key_fn=_key, persist_result=True, result_serializer="json")
def _summarize(config: RunConfig, checkpoint: LedgerRow, wall_seconds: float) -> Result:
    summarize_run(config.run_dir, steps=checkpoint.step, wall_seconds=wall_seconds)
    write_html(config.run_dir)
    track_run(config)
    return {"wall_seconds": wall_seconds}


def _complete(config: RunConfig) -> bool:
    return all((config.run_dir / name).exists() for name in ("summary.json", "report.html"))
