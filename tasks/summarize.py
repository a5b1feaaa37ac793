"""Both evaluations to a summary, a page and a table."""

import json

from prefect import task
from prefect.context import TaskRunContext

from tasks.caching import Result, cache_key, run_verified
from visual_r1.config import RunConfig
from visual_r1.evaluation.report import write_html
from visual_r1.evaluation.summary import summarize as summarize_run
from visual_r1.ledger import LedgerRow

VERSION = 1


def summarize(config: RunConfig, checkpoint: LedgerRow, wall_seconds: float) -> Result:
    """The content of `summary.json`; `report.html` stands beside it."""
    run_verified(_summarize, lambda _: _complete(config), config, checkpoint, wall_seconds)
    return json.loads((config.run_dir / "summary.json").read_text(encoding="utf-8"))


def _key(_: TaskRunContext, parameters: Result) -> str:
    config: RunConfig = parameters["config"]
    checkpoint: LedgerRow = parameters["checkpoint"]
    run = str(config.run_dir.absolute())
    return cache_key("summarize", VERSION, run=run, sampler=checkpoint.sampler_path)


@task(name="summarize", cache_key_fn=_key, persist_result=True, result_serializer="json")
def _summarize(config: RunConfig, checkpoint: LedgerRow, wall_seconds: float) -> Result:
    summarize_run(config.run_dir, steps=checkpoint.step, wall_seconds=wall_seconds)
    page = write_html(config.run_dir)
    return {"page": str(page)}


def _complete(config: RunConfig) -> bool:
    return all((config.run_dir / name).exists() for name in ("summary.json", "report.html"))
