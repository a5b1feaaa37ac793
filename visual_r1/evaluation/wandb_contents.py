"""What a run on W&B holds, told from the files of its folder: steps, validations, evaluations with
their predictions and pictures, and what the alarms found."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from visual_r1.alarms import AlarmLog
from visual_r1.evaluation.metrics import read_report
from visual_r1.evaluation.predictions import iterate_predictions
from visual_r1.evaluation.summary import BASELINE, FILE_NAME, FINAL
from visual_r1.runs.journal import Row, read_object
from visual_r1.runs.validations import Validations

ALARMED = "alarms/checkpoint"
"""In the W&B run's summary: the checkpoint of the newest finding that was told."""

_RATES = (
    "accuracy", "format_rate", "visual_grounding_rate", "blind_accuracy", "sampled_accuracy",
    "pass_at_k", "mean_response_tokens", "truncated", "gave_up", "n",
)  # fmt: skip
_TABLE_COLUMNS = (
    "id", "family", "question", "answer", "response", "extracted", "verdict", "blind_response",
    "blind_correct", "sampled_correct", "k",
)  # fmt: skip


def tell(
    run: Any, run_dir: Path, rows: Sequence[Row], names: Sequence[str], *, tables: bool
) -> None:
    """Log evaluations of the start, then steps, then the other evaluations, in order of `step`."""
    run.define_metric("step", hidden=True)
    run.define_metric("train/*", step_metric="step")
    run.define_metric("evaluation/*", step_metric="step")
    if BASELINE in names:
        _tell_evaluation(run, run_dir, BASELINE, 0, tables=tables)
    for row in rows:
        values = {f"train/{key}": value for key, value in row.items() if _is_number(value)}
        run.log({"step": row["step"], **values})
    after = max((row["step"] for row in rows), default=-1) + 1
    for name in names:
        if name != BASELINE:
            _tell_evaluation(run, run_dir, name, after, tables=tables)
    summary = read_object(run_dir / FILE_NAME)
    if summary is not None:
        run.summary.update({k: v for k, v in summary.items() if _is_number(v) or k == "conclusion"})


def tell_validations(run: Any, run_dir: Path, after: int) -> None:
    """Log each validation of a checkpoint later than step `after`."""
    run.define_metric("step", hidden=True)
    run.define_metric("validation/*", step_metric="step")
    for row in Validations(run_dir).rows():
        if row.step > after:
            found = {f"validation/{key}": v for key, v in asdict(row).items() if _is_number(v)}
            run.log({"step": row.step, **found})


def tell_alarms(run: Any, run_dir: Path, after: int) -> None:
    """An alert for each finding later than the checkpoint `after`: W&B sends it by mail or Slack,
    as its user has set it."""
    for finding in AlarmLog(run_dir).findings():
        if finding.checkpoint > after:
            run.alert(
                title=f"{run_dir.name}: alarm {finding.alarm} at step {finding.checkpoint}",
                text=finding.sentence,
                level="ERROR" if finding.action == "pause" else "WARN",
                wait_duration=0,
            )
            run.summary.update(
                {f"alarms/{finding.alarm}": finding.checkpoint, ALARMED: finding.checkpoint}
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _tell_evaluation(run: Any, run_dir: Path, name: str, step: int, *, tables: bool) -> None:
    folder = run_dir / "evaluations" / name
    report = read_report(folder)
    found = {key: getattr(report, key) for key in _RATES}
    rates = {key: value for key, value in found.items() if value is not None}
    told: dict[str, Any] = {"step": step}
    if name in (BASELINE, FINAL):  # two points of one curve
        told.update({f"evaluation/{key}": value for key, value in rates.items()})
    with tempfile.TemporaryDirectory() as pictures:
        if tables:
            told[f"{name}/predictions"] = _table(folder, Path(pictures))
        run.log(told)
    # Last: where it is there, the rest has been told.
    run.summary.update({f"{name}/{key}": value for key, value in rates.items()})


def _table(folder: Path, pictures: Path) -> Any:
    """The predictions with their pictures, a row a problem, an image column a picture.

    Pictures go through files: wandb then copies them as they are, where it would decode and encode
    them otherwise.
    """
    import wandb

    rows = list(iterate_predictions(folder, [*_TABLE_COLUMNS, "images"]))
    most = max((len(row["images"]) for row in rows), default=0)
    headings = ["image" if i == 0 else f"image {i + 1}" for i in range(most)]
    table = wandb.Table(columns=[_TABLE_COLUMNS[0], *headings, *_TABLE_COLUMNS[1:]])
    for index, row in enumerate(rows):
        images = [
            wandb.Image(str(_as_file(image["bytes"], pictures / f"{index}-{i}")))
            for i, image in enumerate(row["images"])
        ]
        padding = [None] * (most - len(images))
        table.add_data(row["id"], *images, *padding, *(row[c] for c in _TABLE_COLUMNS[1:]))
    return table


def _as_file(image: bytes, stem: Path) -> Path:
    path = stem.with_suffix(".png" if image.startswith(b"\x89PNG") else ".jpg")
    path.write_bytes(image)
    return path
