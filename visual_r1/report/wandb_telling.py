"""What a W&B run is told of a run's files, all of it or what is new."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from visual_r1.alarms import Finding
from visual_r1.evaluation.metrics import evaluation_folder, evaluation_names, read_report
from visual_r1.evaluation.predictions import iterate_predictions
from visual_r1.hashing import digest
from visual_r1.report.rollouts import shown_groups, written_pictures
from visual_r1.report.summary import BASELINE, FINAL, read_summary
from visual_r1.report.wandb_service import load_wandb, scratch_folder
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.journal import Journal
from visual_r1.runs.validations import ValidationRow, Validations
from visual_r1.wording import for_page, printable

# In the W&B run's summary: the checkpoint of the newest finding that was told.
ALARMED = "alarms/checkpoint"
_RATES = (
    "accuracy", "format_rate", "visual_grounding_rate", "blind_accuracy", "sampled_accuracy",
    "pass_at_k", "mean_response_tokens", "truncated", "gave_up", "n",
)  # fmt: skip
_TABLE_COLUMNS = (
    "id", "family", "question", "answer", "response", "extracted", "verdict", "blind_response",
    "blind_correct", "sampled_correct", "k",
)  # fmt: skip
_SAMPLE_COLUMNS = ("sample", "response", "verdict", "reward", "advantage")


@dataclass(frozen=True, slots=True)
class Told:
    """What W&B has been told, as `tracked.json` keeps it.

    `next_step`, `row`, `evaluations`, `validated` (the last step that was) and `alarmed` (the last
    checkpoint with a finding) are what a run online has; `row` is the digest of its last step's
    row: where it does not match the file any more, the run went back behind it and goes on as a new
    W&B run. `offline_copy` is the signature of what the offline copy holds,
    `url` the page of the run online, `stopped` whether W&B has it as stopped since a person pressed
    the button there, and the run has heeded that.
    """

    ident: str
    next_step: int = 0
    row: str = ""
    evaluations: tuple[str, ...] = ()
    offline_copy: str = ""
    validated: int = -1
    alarmed: int = -1
    url: str = ""
    stopped: bool = False

    def knows(self, journal: Journal) -> bool:
        """Whether the last row that was told is still that of its step."""
        last = self.next_step - 1
        return self.row == (row_digest(journal.rows_from(last), last) if self.next_step else "")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a run's folder has for W&B, or that part of it which is new.

    `rows` are those of metrics.jsonl, `evaluations` the names of the complete ones. What was told
    is left out of a part but for the last row of it.
    """

    folder: Path
    rows: Sequence[Mapping[str, Any]]
    evaluations: Sequence[str]
    validations: Sequence[ValidationRow]
    findings: Sequence[Finding]

    @property
    def next_step(self) -> int:
        return max((row["step"] for row in self.rows), default=-1) + 1

    @property
    def validated(self) -> int:
        return max((row.step for row in self.validations), default=-1)

    @property
    def alarmed(self) -> int:
        return max((finding.checkpoint for finding in self.findings), default=-1)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.rows or self.evaluations or self.validations or self.findings)

    def all_of(self, told: Told) -> Told:
        """What W&B has been told when it was told this too."""
        return replace(
            told,
            next_step=self.next_step,
            row=row_digest(self.rows, self.next_step - 1),
            evaluations=tuple(self.evaluations),
            validated=self.validated,
            alarmed=self.alarmed,
        )

    def since(self, told: Told) -> "Contents":
        """What W&B has not been told."""
        return Contents(
            self.folder,
            [row for row in self.rows if row["step"] >= told.next_step],
            [name for name in self.evaluations if name not in told.evaluations],
            [row for row in self.validations if row.step > told.validated],
            [finding for finding in self.findings if finding.checkpoint > told.alarmed],
        )


def contents_of(run_dir: Path, told: Told) -> Contents:
    """What the folder has; of the rows those alone that come after what was `told`, and the last
    one that was."""
    return Contents(
        run_dir,
        Journal(run_dir).rows_from(told.next_step - 1),
        evaluation_names(run_dir),
        Validations(run_dir).rows(),
        AlarmLog(run_dir).findings(),
    )


def row_digest(rows: Sequence[Mapping[str, Any]], step: int) -> str:
    """Of the row of `step`; empty where there is none."""
    found = next((row for row in rows if row["step"] == step), None)
    return digest(found, 16) if found is not None else ""


def tell(run: Any, what: Contents, end: int, *, tables: bool) -> None:
    """Log `what` to `run`; evaluations but that of the start stand at step `end`.

    Of an alert W&B sends a mail or a message on Slack, as its user has set it.
    """
    run.define_metric("step", hidden=True)
    for group in ("train", "validation", "evaluation"):
        run.define_metric(f"{group}/*", step_metric="step")
    for validation in what.validations:
        values = asdict(validation).items()
        found = {f"validation/{key}": value for key, value in values if _is_number(value)}
        run.log({"step": validation.step, **found})
    for finding in what.findings:
        run.alert(
            title=printable(
                f"{what.folder.name}: alarm {finding.alarm} at step {finding.checkpoint}"
            ),
            text=printable(finding.sentence),
            level="ERROR" if finding.action == "pause" else "WARN",
            wait_duration=0,
        )
        run.summary.update(
            {f"alarms/{finding.alarm}": finding.checkpoint, ALARMED: finding.checkpoint}
        )
    if BASELINE in what.evaluations:
        _tell_evaluation(run, what.folder, BASELINE, 0, tables=tables)
    for row in what.rows:
        found = {f"train/{key}": value for key, value in row.items() if _is_number(value)}
        run.log({"step": row["step"], **found})
    for name in what.evaluations:
        if name != BASELINE:
            _tell_evaluation(run, what.folder, name, end, tables=tables)
    if tables and what.rows:
        _tell_rollouts(run, what)
    summary = read_summary(what.folder)
    if summary is not None:
        values = summary.to_json().items()
        run.summary.update({k: v for k, v in values if _is_number(v) or k == "conclusion"})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _tell_evaluation(run: Any, run_dir: Path, name: str, step: int, *, tables: bool) -> None:
    folder = evaluation_folder(run_dir, name)
    report = read_report(folder)
    found = {key: getattr(report, key) for key in _RATES}
    rates = {key: value for key, value in found.items() if value is not None}
    told: dict[str, Any] = {"step": step}
    if name in (BASELINE, FINAL):  # two points of one curve
        told.update({f"evaluation/{key}": value for key, value in rates.items()})
    with tempfile.TemporaryDirectory(dir=scratch_folder(run_dir)) as pictures:
        if tables:
            told[f"{name}/predictions"] = _table(folder, Path(pictures))
        run.log(told)
    # Last: where it is there, the rest has been told.
    run.summary.update({f"{name}/{key}": value for key, value in rates.items()})


def _tell_rollouts(run: Any, what: Contents) -> None:
    """A table of a group of each chunk: the problem with its picture, and every sample of it."""
    groups = shown_groups(what.folder, after=what.rows[0]["step"] - 1)
    if not groups:
        return
    wandb = load_wandb(what.folder)
    table = wandb.Table(columns=["step", "problem", "image", "question", "gold", *_SAMPLE_COLUMNS])
    with tempfile.TemporaryDirectory(dir=scratch_folder(what.folder)) as pictures:
        for group in groups:
            problem = group.problem
            images = problem.images[:1] if problem is not None else ()
            paths = written_pictures(Path(pictures), f"step-{group.step}", images)
            asked = (problem.question, problem.answer) if problem is not None else (None, None)
            for row in group.samples:
                table.add_data(
                    group.step,
                    for_page(group.problem_id),
                    wandb.Image(paths[0]) if paths else None,
                    *map(for_page, asked),
                    *(for_page(row[column]) for column in _SAMPLE_COLUMNS),
                )
        run.log({"step": groups[-1].step, "rollouts": table})


def _table(folder: Path, pictures: Path) -> Any:
    """The predictions with their pictures, a row a problem, an image column a picture.

    Pictures go through files: wandb then copies them as they are, where it would decode and encode
    them otherwise.
    """
    wandb = load_wandb(folder.parents[1])
    rows = list(iterate_predictions(folder, [*_TABLE_COLUMNS, "images"]))
    most = max((len(row["images"]) for row in rows), default=0)
    headings = ["image" if i == 0 else f"image {i + 1}" for i in range(most)]
    table = wandb.Table(columns=[_TABLE_COLUMNS[0], *headings, *_TABLE_COLUMNS[1:]])
    for index, row in enumerate(rows):
        images: list[Any] = [None] * most
        stored = [image["bytes"] for image in row["images"]]
        for i, path in enumerate(written_pictures(pictures, str(index), stored)):
            images[i] = wandb.Image(path)
        shown = {column: for_page(row[column]) for column in _TABLE_COLUMNS}
        table.add_data(shown["id"], *images, *(shown[column] for column in _TABLE_COLUMNS[1:]))
    return table
