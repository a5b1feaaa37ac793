"""The record of a run at Prefect: opened by a flow, told by its tasks, outside of both nothing.

Prefect's server may be slow, gone or replaced meanwhile: a run neither waits for it nor fails.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from tasks.records import assets
from tasks.records.artifacts import Artifact, Board
from tasks.records.ending import conclude, conclusion
from tasks.records.events import happened
from tasks.records.logs import story
from tasks.records.names import flow_run_name, tags
from tasks.records.sending import Sender, current
from visual_r1.alarms import Finding
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.evaluation.conditions import in_a_line
from visual_r1.evaluation.metrics import evaluation_folder, read_report
from visual_r1.exports.record import Export, adapter_folder
from visual_r1.report.markdown import (
    dataset_card,
    evaluation_report,
    markdown_report,
    verdict,
)
from visual_r1.report.page import PAGE_NAME
from visual_r1.report.summary import Summary
from visual_r1.runs.costs import cost_of_run
from visual_r1.runs.journal import MetricsRow, read_metrics
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.validations import ValidationRow
from visual_r1.wording import as_markdown, percent, percent_range

NAMED_WITHIN_S = 3.0
"""So long a flow waits for its name: what it emits from then on has it."""


@dataclass(frozen=True, slots=True)
class _Record:
    sender: Sender
    flow_run: UUID
    board: Board | None


_open: ContextVar[_Record | None] = ContextVar("record", default=None)


@contextmanager
def open_record(config: RunConfig, what: str = "") -> Generator[None]:
    """Within a flow: name and tag its run, and keep its record for the block.

    `what` is what the flow does about the run of `config`, where it does not train it. Where the
    block ends and something was concluded, the event `finished` says so.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if context is None or run is None:
        yield
        return
    sender = Sender()
    run.name = flow_run_name(config, what)
    run.tags = sorted({*run.tags, *tags(config)})  # those of a deployment stay
    sender.put("name", partial(_rename, run))
    sender.wait(NAMED_WITHIN_S)
    board = Board(sender, config, run.id, read_metrics(config.run_dir)) if not what else None
    token, sending = _open.set(_Record(sender, run.id, board)), current.set(sender)
    try:
        yield
        sentence, figures = conclusion()
        if sentence:
            flow = context.flow.name if context.flow is not None else ""
            happened(config, "finished", sentence, {"flow": flow, **figures})
    finally:
        _open.reset(token)
        current.reset(sending)
        sender.close()


def _rename(run: FlowRun, client: SyncPrefectClient) -> None:
    client.update_flow_run(run.id, name=run.name, tags=run.tags)


def doing(what: str, done: int | None = None) -> None:
    """What the run is at now; `done` steps are on record."""
    record = _open.get()
    if record is not None and record.board is not None:
        record.board.doing(what, done)


def step_done(row: MetricsRow) -> None:
    """A step was trained: a line of the log, and now and then the artifacts."""
    record = _open.get()
    if record is not None and record.board is not None:
        story.info("%s", record.board.step(row))


def dataset_prepared(config: RunConfig, dataset: Dataset) -> None:
    """The dataset is there."""
    counts = ", ".join(f"{count} {name}" for name, count in dataset.counts.items())
    story.info("dataset %s: %s", dataset.folder, counts)
    assets.dataset_made(config, dataset)


def chunk_saved(
    config: RunConfig, dataset: Dataset, start: LedgerRow | None, row: LedgerRow
) -> None:
    """A chunk was trained, and its checkpoint is in the ledger."""
    doing(f"checkpoint of step {row.step} saved", row.step)
    rest = f", kept until {row.expires_at}" if row.expires_at else ""
    happened(
        config,
        "chunk.saved",
        f"checkpoint of step {row.step} of {config.train.steps} saved: {row.sampler_path}{rest}",
        {
            "step": row.step,
            "steps": config.train.steps,
            "state_path": row.state_path,
            "sampler_path": row.sampler_path,
            "expires_at": row.expires_at,
        },
    )
    assets.checkpoint_made(config, dataset, start, row)


def validated(config: RunConfig, row: ValidationRow) -> None:
    """A checkpoint, or the base model as step 0, was validated."""
    blind = "" if row.blind_accuracy is None else f", image blanked {percent(row.blind_accuracy)}"
    happened(
        config,
        "validated",
        f"validated step {row.step}: accuracy {percent(row.accuracy)} of {row.n} problems "
        f"({percent_range(row.accuracy_ci95)}){blind}",
        {
            "step": row.step,
            "accuracy": row.accuracy,
            "accuracy_ci95": list(row.accuracy_ci95),
            "blind_accuracy": row.blind_accuracy,
            "problems": row.n,
        },
    )


def evaluated(config: RunConfig, dataset: Dataset, name: str, sampler_path: str | None) -> None:
    """An evaluation is complete."""
    report = read_report(evaluation_folder(config.run_dir, name))
    story.info("evaluated %s: %s", name, in_a_line(report))
    assets.evaluation_made(config, dataset, name, sampler_path, report)


def exported(config: RunConfig, row: LedgerRow, made: Export, into: str) -> None:
    """An adapter was exported."""
    folder = adapter_folder(config.run_dir, into)
    story.info("exported the adapter of step %d to %s", made.step, folder)
    assets.adapter_made(config, row, made, into)


def promoted(
    config: RunConfig, model: Path, adapter: Path, sentence: str, evidence: Mapping[str, Any]
) -> None:
    """The run's adapter was promoted: `model` is the record under models/ that names it.

    `evidence` is what it was promoted for, as JSON.
    """
    happened(config, "promoted", sentence, {"model": model.stem, **evidence})
    assets.promoted_model(config, model, adapter, evidence)


def alarmed(config: RunConfig, findings: Sequence[Finding]) -> None:
    """Alarms found something at a checkpoint; the library has warned of it."""
    for finding in findings:
        happened(config, "alarm", f"alarm {finding.alarm} ({finding.action})", finding.row())


def summarized(config: RunConfig, summary: Summary) -> None:
    """The run is done: its report as an artifact, and what the flow run ends with."""
    cost, page = cost_of_run(config.run_dir), config.run_dir.absolute() / PAGE_NAME
    conclude(
        f"{verdict(summary, cost)} Report: {page}",
        {
            "baseline": summary.accuracy.baseline,
            "final": summary.accuracy.final,
            "delta": summary.accuracy.delta,
            "delta_ci95": list(summary.accuracy.delta_ci95),
            "p_value": summary.accuracy.p_value,
            "distinguishable": summary.distinguishable,
            "problems": summary.accuracy.n,
            "steps": summary.steps,
            "wall_seconds": summary.wall_seconds,
            "cost_usd": summary.cost_usd,
            "budget": summary.budget.setting if summary.budget else None,
        },
    )
    doing("done", summary.steps)
    if (record := _open.get()) is not None:
        _show(record, config, "report", markdown_report(config))


def conclude_preparation(config: RunConfig, dataset: Dataset) -> None:
    """A dataset by itself is there: what its flow run ends with, and its card."""
    counts = dict(dataset.counts)
    shown = ", ".join(f"{count} {name}" for name, count in counts.items())
    conclude(f"{dataset.folder}: {shown}; its README.md tells more", counts)
    if (record := _open.get()) is not None:
        _show(record, config, "dataset", dataset_card(dataset))


def conclude_evaluation(config: RunConfig, name: str) -> None:
    """An evaluation by itself is done: what its flow run ends with, and its report."""
    folder = evaluation_folder(config.run_dir, name)
    report = read_report(folder)
    blind = report.blind_accuracy
    said = f", pass@{report.k} {percent(report.pass_at_k)}" if report.k else ""
    said += "" if blind is None else f", image blanked {percent(blind)}"
    conclude(
        f"{name}: accuracy {percent(report.accuracy)} of {report.n} problems "
        f"({percent_range(report.accuracy_ci95)}){said}. Report: {folder.absolute()}",
        {
            "evaluation": name,
            "accuracy": report.accuracy,
            "accuracy_ci95": list(report.accuracy_ci95),
            "blind_accuracy": blind,
            "problems": report.n,
        },
    )
    if (record := _open.get()) is not None:
        _show(record, config, f"evaluation-{name}", evaluation_report(config, name))


def _show(record: _Record, config: RunConfig, what: str, text: str) -> None:
    """A text in Markdown as an artifact of the flow run at work."""
    shown = Artifact(record.sender, config, "markdown", what, record.flow_run)
    shown.show(text, as_markdown(conclusion()[0]))
