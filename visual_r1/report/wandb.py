"""A run on W&B: steps, validations, alarms, and each evaluation's rates and predictions.

Everything comes from the run folder's files, so tracking can be late, repeated or broken without
harm to the run. Online, what is new is added to one W&B run that a resumed run continues; what W&B
has of it already, since a kill came before that was noted here, is not told again. Offline copies
cannot be continued (a later one with the same id replaces an earlier one when both are synced), so
the offline copy is always the whole run, written anew, in one folder that `wandb sync` uploads.

wandb is imported when it is needed and not before: it costs half a second.
"""

import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from visual_r1.alarms import Finding
from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError
from visual_r1.evaluation.metrics import (
    REPORT_NAME,
    evaluation_folder,
    evaluation_names,
    read_report,
)
from visual_r1.evaluation.predictions import iterate_predictions
from visual_r1.hashing import digest
from visual_r1.printing import open_logger
from visual_r1.report.rollouts import shown_groups, written_pictures
from visual_r1.report.summary import BASELINE, FINAL, SUMMARY_NAME, read_summary
from visual_r1.report.wandb_service import (
    chosen_mode,
    let_go_of_dead_service,
    load_wandb,
    open_wandb_run,
    scratch_folder,
)
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.journal import read_metrics
from visual_r1.runs.validations import ValidationRow, Validations
from visual_r1.storage import read_json, write_json
from visual_r1.wording import for_page, printable

logger = open_logger(__name__)

STATE_NAME = "tracked.json"
# The offline copy is for later, so while a run trains it need not be fresh to the second.
OFFLINE_INTERVAL_S = 60.0
# In the W&B run's summary: the checkpoint of the newest finding that was told.
_ALARMED = "alarms/checkpoint"
_RATES = (
    "accuracy", "format_rate", "visual_grounding_rate", "blind_accuracy", "sampled_accuracy",
    "pass_at_k", "mean_response_tokens", "truncated", "gave_up", "n",
)  # fmt: skip
_TABLE_COLUMNS = (
    "id", "family", "question", "answer", "response", "extracted", "verdict", "blind_response",
    "blind_correct", "sampled_correct", "k",
)  # fmt: skip
_SAMPLE_COLUMNS = ("sample", "response", "verdict", "reward", "advantage")


def track_steps(config: RunConfig) -> None:
    """Bring W&B up to the newest step; call it after a checkpoint has been recorded.

    Does nothing where W&B is not told, and never raises for W&B's own failures: it warns once
    and leaves the rest to `track_run`.
    """
    _track(config, whole=False)


def track_run(config: RunConfig) -> None:
    """Bring W&B up to the run's files: steps, evaluations with their predictions, and summary.

    For the end of a run or of an evaluation. Does nothing where nothing is new; fails like
    `track_steps`.
    """
    _track(config, whole=True)


def page_at_wandb(run_dir: Path) -> str | None:
    """The address of the run's page; None where W&B was told nothing online."""
    try:
        return read_json(run_dir / "wandb" / STATE_NAME, _STORED).url or None
    except (OSError, ValueError):  # damage is met by the next one who tells W&B something
        return None


_gave_up: set[Path] = set()


def _track(config: RunConfig, *, whole: bool) -> None:
    run_dir = config.run_dir
    if config.logging.told != "wandb" or (run_dir in _gave_up and not whole):
        return
    try:
        mode = chosen_mode(run_dir).mode
        if mode == "disabled":
            return
        there = _Contents(
            run_dir,
            read_metrics(run_dir),
            evaluation_names(run_dir),
            Validations(run_dir).rows(),
            AlarmLog(run_dir).findings(),
        )
        told = _read_told(there)
        if mode == "online":
            _add_online(config, told, there)
        else:
            _write_offline_copy(config, told, there, whole=whole)
    # One of the two places for this: nothing that tracks may end a run, whatever it raises. W&B
    # ends the process where its service ended with a status of its own.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        let_go_of_dead_service()
        if run_dir not in _gave_up:
            said = " ".join(str(error).split())
            if not isinstance(error, ConfigError):  # a setting is the user's; all else is W&B's
                said = f"W&B is not keeping up ({type(error).__name__}: {said})."
            logger.warning(
                "%s The run goes on, its files are complete, and the next start tells W&B what is "
                "missing; --no-logging.wandb switches it off.",
                said,
            )
        _gave_up.add(run_dir)


@dataclass(frozen=True, slots=True)
class _Told:
    """What W&B has been told, as `tracked.json` keeps it.

    `next_step`, `row`, `evaluations`, `validated` (the last step that was) and `alarmed` (the last
    checkpoint with a finding) are what a run online has; `row` is the digest of its last step's
    row: where it does not match the file any more, the run went back behind it and goes on as a new
    W&B run. `offline_copy` is the signature of what the offline copy holds,
    `url` the page of the run online.
    """

    ident: str
    next_step: int = 0
    row: str = ""
    evaluations: tuple[str, ...] = ()
    offline_copy: str = ""
    validated: int = -1
    alarmed: int = -1
    url: str = ""


_STORED = TypeAdapter(_Told)


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a run's folder has for W&B, or that part of it which is new.

    `rows` are those of metrics.jsonl, `evaluations` the names of the complete ones.
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

    def since(self, told: _Told) -> "_Contents":
        """What W&B has not been told."""
        return _Contents(
            self.folder,
            [row for row in self.rows if row["step"] >= told.next_step],
            [name for name in self.evaluations if name not in told.evaluations],
            [row for row in self.validations if row.step > told.validated],
            [finding for finding in self.findings if finding.checkpoint > told.alarmed],
        )


def _read_told(there: _Contents) -> _Told:
    """What W&B has been told; a new W&B run where that is nothing, or where the run went back."""
    state = there.folder / "wandb" / STATE_NAME
    try:
        told = read_json(state, _STORED)
        if told.row == _row_digest(there.rows, told.next_step - 1):
            return told
    except FileNotFoundError:
        pass
    except ValueError as error:
        logger.warning("%s is damaged (%s): W&B is told all of it as a new run.", state, error)
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", there.folder.name)[:100]
    return _Told(ident=f"{slug}-{secrets.token_hex(4)}")


def _write_told(run_dir: Path, told: _Told) -> None:
    write_json(run_dir / "wandb" / STATE_NAME, asdict(told))


def _row_digest(rows: Sequence[Mapping[str, Any]], step: int) -> str:
    found = next((row for row in rows if row["step"] == step), None)
    return digest(found, 16) if found is not None else ""


def _add_online(config: RunConfig, told: _Told, there: _Contents) -> None:
    new = there.since(told)
    if not (new.rows or new.evaluations or new.validations or new.findings):
        return
    # Before W&B hears of it: a run that is killed here goes on under the same id.
    _write_told(there.folder, told)
    with open_wandb_run(config, "online", told.ident) as run:
        has = run.summary  # W&B hands it over when a run is continued
        heard = replace(
            told,
            next_step=max(told.next_step, has.get("train/step", -1) + 1),
            evaluations=(
                *told.evaluations,
                *(name for name in there.evaluations if f"{name}/n" in has),
            ),
            validated=max(told.validated, has.get("validation/step", -1)),
            alarmed=max(told.alarmed, has.get(_ALARMED, -1)),
        )
        _tell(run, there.since(heard), there.next_step, tables=True)
        url = str(run.url or "")
    all_told = replace(
        told,
        next_step=there.next_step,
        row=_row_digest(there.rows, there.next_step - 1),
        evaluations=tuple(there.evaluations),
        validated=there.validated,
        alarmed=there.alarmed,
        url=url,
    )
    _write_told(there.folder, all_told)


def _write_offline_copy(config: RunConfig, told: _Told, there: _Contents, *, whole: bool) -> None:
    folder = there.folder / "wandb"
    before = list(folder.glob("offline-run-*"))
    if not (there.rows or there.evaluations):
        return
    if before:
        age = time.time() - max(path.stat().st_mtime for path in before)
        enough = {_signature(there, tables=tables) for tables in (True, whole)}
        if told.offline_copy in enough or (not whole and age < OFFLINE_INTERVAL_S):
            return
    # Pictures that an earlier copy staged; the new one stages its own.
    shutil.rmtree(folder / "data", ignore_errors=True)
    with open_wandb_run(config, "offline", told.ident) as run:
        _tell(run, there, there.next_step, tables=whole)
    for old in before:
        shutil.rmtree(old, ignore_errors=True)
    _write_told(there.folder, replace(told, offline_copy=_signature(there, tables=whole)))


def _signature(there: _Contents, *, tables: bool) -> str:
    """Of what an offline copy holds: equal where writing it again would change nothing."""
    run_dir = there.folder
    paths = [evaluation_folder(run_dir, name) / REPORT_NAME for name in there.evaluations]
    present = [path for path in (*paths, run_dir / SUMMARY_NAME) if path.exists()]
    parts = [(str(path.relative_to(run_dir)), path.stat().st_mtime_ns) for path in present]
    seen = [len(there.rows), there.rows[-1:], there.validated, there.alarmed]
    return digest([*seen, parts, tables], 16)


def _tell(run: Any, what: _Contents, end: int, *, tables: bool) -> None:
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
            {f"alarms/{finding.alarm}": finding.checkpoint, _ALARMED: finding.checkpoint}
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


def _tell_rollouts(run: Any, what: _Contents) -> None:
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
