"""A run on trackio: steps, validations, alarms, samples as traces, predictions as tables.

trackio's library is never loaded here: a program of its own, `trackio_program`, is handed what is
new as a file, and tells trackio. While a run trains nobody waits for it; at the end it is waited
for as long as it does something. It looks first what trackio has already, by step and name, so what
a killed one has told is not told again.

Where trackio keeps it is trackio's own setting: a local database (`TRACKIO_DIR`), or a Space or
server where the user names one. `trackio show` opens it.
"""

import json
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from visual_r1.config import RunConfig
from visual_r1.errors import VisualR1Error
from visual_r1.evaluation.metrics import (
    REPORT_NAME,
    evaluation_folder,
    evaluation_names,
    read_report,
)
from visual_r1.evaluation.predictions import iterate_predictions
from visual_r1.hashing import digest
from visual_r1.liveness import Progress
from visual_r1.printing import open_logger
from visual_r1.report.rollouts import shown_groups, written_pictures
from visual_r1.report.summary import BASELINE, SUMMARY_NAME, read_summary
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.folder import config_without_secrets
from visual_r1.runs.journal import Journal
from visual_r1.runs.validations import ValidationRow, Validations
from visual_r1.storage import read_if_sound, write_json
from visual_r1.wording import for_page, printable

logger = open_logger(__name__)

STATE_NAME = "tracked.json"
STANDS_STILL_S = 45.0
"""So long the program may do nothing while it is waited for."""
MOST_ROWS = 200
"""Of the predictions that a table has: trackio keeps a table in a row of its database."""

_RATES = (
    "accuracy", "format_rate", "visual_grounding_rate", "blind_accuracy", "sampled_accuracy",
    "pass_at_k", "mean_response_tokens", "truncated", "gave_up", "n",
)  # fmt: skip
_COLUMNS = ("id", "family", "question", "answer", "response", "extracted", "verdict")


@dataclass(frozen=True, slots=True)
class _Told:
    """What trackio was told: the steps before `next_step`, whose last row has the digest `row`.

    Where it does not match the file any more the run went back behind it, and goes on as a run of
    another name. `validated` is the last step of a validation that was told, `alarmed` the last
    checkpoint of an alarm. `seen` is a digest of all that was told, so that the same is not looked
    at again.
    """

    name: str
    next_step: int = 0
    row: str = ""
    seen: str = ""
    validated: int = -1
    alarmed: int = -1


_STORED = TypeAdapter(_Told)

_programs: dict[Path, "subprocess.Popen[bytes]"] = {}
"""By the run's folder: the one that was started last."""

_gave_up: set[Path] = set()


def track_steps(config: RunConfig) -> None:
    """Start telling trackio what is new, unless it is still being told; nobody waits for that."""
    _track(config, whole=False)


def track_run(config: RunConfig) -> None:
    """Tell trackio all there is, predictions too, and wait while that gets on."""
    _track(config, whole=True)


def _track(config: RunConfig, *, whole: bool) -> None:
    run_dir = config.run_dir
    try:
        program = _programs.get(run_dir)
        if program is not None and not _has_ended(program, run_dir, wait=whole):
            return
        if _start(config, whole=whole) and whole:
            _has_ended(_programs[run_dir], run_dir, wait=True)
    # Nothing that tracks may end a run: a full disk, a file that is damaged, no room for a process.
    except (OSError, ValueError, VisualR1Error, subprocess.SubprocessError) as error:
        _warn(run_dir, f"trackio is not told ({type(error).__name__}: {error})")


def _start(config: RunConfig, *, whole: bool) -> bool:
    """Write down what is to be told, and start the program that tells it; whether there is any."""
    run_dir = config.run_dir
    folder = run_dir / "trackio"
    folder.mkdir(exist_ok=True)
    told = _read_told(run_dir)
    # What is new, and the last one that is not.
    metrics = Journal(run_dir).rows_from(told.next_step - 1)
    end = max((row["step"] for row in metrics), default=-1) + 1
    last = _row_digest(metrics, end - 1)
    seen = _signature(run_dir, end, last, whole=whole)
    if told.seen == seen or not (metrics or evaluation_names(run_dir)):
        return False
    write_json(folder / STATE_NAME, asdict(told))  # killed from here on, it keeps its name
    validations = [row for row in Validations(run_dir).rows() if row.step > told.validated]
    findings = [one for one in AlarmLog(run_dir).findings() if one.checkpoint > told.alarmed]
    pictures = folder / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir()
    entries = [*_steps(metrics, told.next_step), *_validations(validations)]
    entries += _evaluations(run_dir, end, pictures, tables=whole)
    job = {
        "project": config.logging.wandb_project,
        "run": told.name,
        "config": config_without_secrets(config),
        "entries": entries,
        "alerts": [
            {
                "title": printable(f"{run_dir.name}: alarm {one.alarm} at step {one.checkpoint}"),
                "text": printable(one.sentence),
                "level": "error" if one.action == "pause" else "warn",
                "step": one.checkpoint,
            }
            for one in findings
        ],
        "traces": _traces(run_dir, told.next_step - 1, pictures),
        "lock": str(folder / ".lock"),
        "pictures": str(pictures),
        "state": str(folder / STATE_NAME),
        "told": asdict(
            _Told(
                told.name,
                end,
                last,
                seen,
                max([told.validated, *(row.step for row in validations)]),
                max([told.alarmed, *(one.checkpoint for one in findings)]),
            )
        ),
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    with (folder / "log.txt").open("wb") as log:
        _programs[run_dir] = subprocess.Popen(
            [sys.executable, "-m", "visual_r1.report.trackio_program", str(folder / "job.json")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C at the terminal is the run's; what is being told may be told to its end.
            start_new_session=True,
        )
    return True


def _has_ended(program: "subprocess.Popen[bytes]", run_dir: Path, *, wait: bool) -> bool:
    """Whether the program has ended; with `wait` after as long as it does something."""
    progress = Progress(program.pid)
    while program.poll() is None:
        if not wait:
            return False
        with suppress(subprocess.TimeoutExpired):
            program.wait(0.1)
        if progress.seconds_without() > STANDS_STILL_S:
            program.kill()
            program.wait()
            _warn(run_dir, f"trackio stood still for {STANDS_STILL_S:.0f} s and was stopped")
            return True
    if program.returncode:
        said = (run_dir / "trackio" / "log.txt").read_text("utf-8", "replace").strip()
        last = said.splitlines()[-1] if said else f"status {program.returncode}"
        _warn(run_dir, f"trackio is not keeping up ({last})")
    _programs.pop(run_dir, None)
    return True


def _warn(run_dir: Path, what: str) -> None:
    if run_dir not in _gave_up:
        logger.warning(
            "%s. The run goes on, its files are complete, and the next start tells trackio what is "
            "missing; --logging.tracker none switches it off.",
            what,
        )
    _gave_up.add(run_dir)


def _read_told(run_dir: Path) -> _Told:
    state = run_dir / "trackio" / STATE_NAME
    told = read_if_sound(state, _STORED, "trackio is told all of it as a new run")
    if told is not None:
        last = told.next_step - 1
        rows = Journal(run_dir).rows_from(last) if told.next_step else []
        if told.row == _row_digest(rows, last):
            return told
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_dir.name)[:100]
    return _Told(f"{slug}-{secrets.token_hex(2)}")


def _signature(run_dir: Path, end: int, last: str, *, whole: bool) -> str:
    """Of what is told: equal where telling it again would add nothing."""
    files = [run_dir / SUMMARY_NAME, Validations(run_dir).path, AlarmLog(run_dir).path]
    files += [evaluation_folder(run_dir, name) / REPORT_NAME for name in evaluation_names(run_dir)]
    times = [(str(one), one.stat().st_mtime_ns) for one in files if one.exists()]
    return digest([end, last, times, whole], 16)


def _row_digest(rows: Sequence[Mapping[str, Any]], step: int) -> str:
    found = next((row for row in rows if row["step"] == step), None)
    return digest(found, 16) if found is not None else ""


def _entry(step: int, key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """One call of trackio's `log`; `key` is known to be told where a log of that step has it."""
    return {"step": step, "key": key, "values": dict(values)}


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{prefix}/{name}": value
        for name, value in values.items()
        if isinstance(value, int | float)
    }


def _steps(metrics: Sequence[Mapping[str, Any]], first: int) -> list[dict[str, Any]]:
    return [
        _entry(row["step"], "train/step", _numbers("train", row))
        for row in metrics
        if row["step"] >= first
    ]


def _validations(rows: Sequence[ValidationRow]) -> list[dict[str, Any]]:
    return [
        _entry(row.step, "validation/step", _numbers("validation", asdict(row))) for row in rows
    ]


def _evaluations(run_dir: Path, end: int, pictures: Path, *, tables: bool) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for name in evaluation_names(run_dir):
        folder = evaluation_folder(run_dir, name)
        report = read_report(folder)
        step = 0 if name == BASELINE else end
        rates = {key: getattr(report, key) for key in _RATES}
        entries.append(_entry(step, f"{name}/n", _numbers(name, rates)))
        if tables:
            rows = _table(folder, name, pictures)
            entries.append({"step": step, "key": f"{name}/predictions", "table": rows})
    if tables and (summary := read_summary(run_dir)) is not None:
        values = _numbers("summary", summary.to_json())
        entries.append(_entry(end, "summary/steps", values))
    return entries


def _table(folder: Path, name: str, pictures: Path) -> list[dict[str, Any]]:
    """The first predictions with their pictures, as paths."""
    found: list[dict[str, Any]] = []
    for row in iterate_predictions(folder, [*_COLUMNS, "images"]):
        if len(found) == MOST_ROWS:
            break
        paths = written_pictures(
            pictures, f"{name}-{len(found)}", [one["bytes"] for one in row["images"]]
        )
        shown = {column: for_page(row[column]) for column in _COLUMNS}
        found.append({"id": shown.pop("id"), "image": paths, **shown})
    return found


def _traces(run_dir: Path, after: int, pictures: Path) -> list[dict[str, Any]]:
    """A group of each new chunk: what was asked, and each of the answers."""
    found: list[dict[str, Any]] = []
    for group in shown_groups(run_dir, after):
        problem = group.problem
        images = problem.images if problem is not None else ()
        samples = [
            {
                "response": for_page(row["response"]),
                "metadata": {
                    "problem": group.problem_id,
                    "gold": for_page(problem.answer) if problem else None,
                    **{name: row[name] for name in ("sample", "verdict", "reward", "advantage")},
                },
            }
            for row in group.samples
        ]
        found.append(
            {
                "step": group.step,
                "key": "rollouts",
                "question": for_page(problem.question) if problem else group.problem_id,
                "images": written_pictures(pictures, f"step-{group.step}", images),
                "samples": samples,
            }
        )
    return found
