"""One run: what it came to, its curves while it trains, its checkpoints, where its time went."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from visual_r1.hashing import digest
from visual_r1.opening import open_file
from visual_r1.pages.curves import FIRST, others, series, watched
from visual_r1.pages.drawing import Flag, Line, Mark, curves, time_by_step
from visual_r1.pages.place import NotThere, place_of
from visual_r1.pages.reading import RunFacts, facts_of
from visual_r1.pages.showing import show
from visual_r1.report.phases import OF_A_STEP, REST, seconds_of_step, time_rows
from visual_r1.report.spending import spending_rows
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.validations import ValidationRow, best_checkpoint
from visual_r1.wording import accuracy_moved, duration

router = APIRouter()

REPORT = "report.html"
# It is one file that needs nothing else; of scripts it allows its own alone, by the digest in its
# own policy, see `report.page`, and so does this one. A folder may be somebody else's: in a sandbox
# whatever runs there is of no origin, and reaches neither these pages nor their cookie.
_OF_THE_REPORT = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; "
    "sandbox allow-scripts allow-popups"
)
_OWN_SCRIPT = re.compile(rb"script-src '(sha256-[A-Za-z0-9+/]{43}=)'")
_HEAD = 4096
_LOG_TAIL = 2**16
_LOOK_BACK = 10
"""Steps whose mean says how long the rest takes."""
_LAYERS = (*OF_A_STEP.values(), REST)


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and what stands above it."""

    title: str
    chart: Markup


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint with what validation found of it; `first` is the first step that led to it."""

    row: LedgerRow
    first: int
    validated: ValidationRow | None
    is_best: bool


@router.get("/runs/{name}")
def shown(request: Request, name: str, metric: str | None = None) -> Response:
    """What there is of a run."""
    run = facts_of(name, place_of(request).run(name))
    more = others(run.metrics)
    extra = [metric] if metric in more else []
    return show(
        request,
        "run.html.j2",
        run=run,
        headline=headline(run),
        curves=run_curves(run, extra),
        validation=_validation_curve(run),
        others=more,
        metric=metric if metric in more else None,
        mark=mark_of(run),
        last=run.metrics[-1]["step"] if run.metrics else -1,
        left=_time_left(run),
        checkpoints=_checkpoints(run),
        timeline=_timeline(run),
        times=time_rows(
            run.metrics, run.validations, run.result.wall_seconds if run.result else None
        ),
        colours={says: at for at, says in enumerate(_LAYERS, 1)},
        spent=spending_rows(run.metrics, run.evaluations, run.validations),
        report=(run.folder / REPORT).is_file(),
        log=_log_of(run) is not None,
    )


@router.get("/runs/{name}/live")
def live(request: Request, name: str, after: int = -1) -> dict[str, Any]:
    """The rows after step `after`, of what has a curve; `mark` changes when anything else does."""
    run = facts_of(name, place_of(request).run(name))
    keys = [one.key for one in FIRST] + others(run.metrics)
    rows = [row for row in run.metrics if row["step"] > after]
    return {
        "rows": [
            {"step": row["step"]} | {key: _number(row.get(key)) for key in keys} for row in rows
        ],
        "last": run.metrics[-1]["step"] if run.metrics else after,
        "steps": len(run.metrics),
        "mark": mark_of(run),
    }


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@router.get("/runs/{name}/report.html")
def report(request: Request, name: str) -> Response:
    """The report as it lies in the folder."""
    path = place_of(request).run(name) / REPORT
    if not path.is_file() or path.is_symlink():
        raise NotThere(f"The run {name!r} has no report yet: it is written when a run ends.")
    with open_file(path) as file:
        own = _OWN_SCRIPT.search(file.read(_HEAD))
    scripts = f"; script-src '{own[1].decode('ascii')}'" if own else ""
    policy = {"Content-Security-Policy": _OF_THE_REPORT + scripts}
    return FileResponse(path, media_type="text/html", headers=policy)


@router.get("/runs/{name}/log")
def log(request: Request, name: str) -> Response:
    """The end of what the run's engine wrote."""
    run = facts_of(name, place_of(request).run(name))
    path = _log_of(run)
    if path is None:
        raise NotThere(
            f"The run {name!r} has no log here: that of its flow is at Prefect, and a remote "
            "server keeps its own."
        )
    with open_file(path) as file:
        file.seek(max(0, file.seek(0, 2) - _LOG_TAIL))
        text = file.read().decode("utf-8", "replace")
    return show(request, "log.html.j2", run=run, path=path, text=text)


def headline(run: RunFacts) -> str:
    """What the run came to, or what it is doing, in a sentence."""
    found = run.result
    if found is not None and found.updated_steps == 0:
        return "Nothing was trained."
    if found is not None and not found.distinguishable:
        return "No distinguishable change in accuracy."
    if found is not None:
        return f"{accuracy_moved(found.baseline, found.final, found.delta)}."
    if run.state is None:
        return "This run cannot be read."
    steps = f"{len(run.metrics)} of {run.steps_wanted} steps"
    says = {
        "training": f"Training: {steps}." if run.metrics else "Training begins.",
        "evaluating": f"Evaluating, after {steps}.",
        "waiting": f"Waiting, after {steps}.",
        "paused": f"Paused by an alarm, after {steps}.",
        "failed": f"Failed, after {steps}.",
        "killed": f"Killed, after {steps}.",
        "stopped": f"Stopped, after {steps}.",
        "evaluated": "Evaluated, not trained.",
    }
    return says.get(run.state.name, f"{steps}.")


def mark_of(run: RunFacts) -> str:
    """Changes with all that the page shows, but for new rows of metrics."""
    state = run.state
    return digest(
        [
            [state.name, state.sentence, state.step] if state else [],
            [row.sampler_path for row in run.checkpoints],
            [[row.step, row.sampler_path] for row in run.validations],
            sorted(run.evaluations),
            [[found.alarm, found.step] for found in run.findings],
            [run.result is not None, run.after_of],
            list(run.faults),
        ],
        16,
    )


def run_curves(run: RunFacts, extra: Sequence[str] = ()) -> list[Chart]:
    """The curves of one run, which grow while it trains; alarms stand on all of them."""
    flags = [
        Flag(
            found.step,
            f"alarm {found.alarm}, step {found.step}: {found.seen}",
            found.action == "pause",
        )
        for found in run.findings
    ]
    charts: list[Chart] = []
    for key in [*(one.key for one in FIRST), *extra]:
        points = series(run.metrics, key)
        shown_as = watched(key)
        if not points:
            continue
        chart = curves(
            shown_as.title,
            [Line("", points)],
            show=shown_as.show,
            marks=evaluation_marks(run) if key == "accuracy" else (),
            flags=flags,
            y_range=shown_as.range_of([y for _, y in points]),
            x_high=run.steps_wanted,
            grows=key,
        )
        charts.append(Chart(shown_as.title, chart))
    return charts


def evaluation_marks(run: RunFacts) -> list[Mark]:
    """Each evaluation at the step of the checkpoint that it is of, however far the run is."""
    after = run.after_step
    places = (
        ("before", 0, run.before),
        (f"after{f', step {after}' if run.after_of else ''}", after, run.after),
    )
    return [
        Mark(float(step), found.accuracy, *found.accuracy_ci95, f"evaluation {says}, greedy")
        for says, step, found in places
        if found is not None and step is not None
    ]


def _validation_curve(run: RunFacts) -> Chart | None:
    rows = [row for row in run.validations if row.n]
    if not rows:
        return None
    marks = [
        Mark(row.step, row.accuracy, *row.accuracy_ci95, f"step {row.step}", "c1") for row in rows
    ]
    for row in rows:
        if row.blind_accuracy is not None and row.blind_accuracy_ci95 is not None:
            blanked = f"step {row.step}, image blanked"
            marks.append(
                Mark(row.step, row.blind_accuracy, *row.blind_accuracy_ci95, blanked, "hollow")
            )
    title = f"Accuracy on {max(row.n for row in rows)} validation problems"
    chart = curves(
        title,
        [Line("", tuple((float(row.step), row.accuracy) for row in rows))],
        marks=marks,
        show="{:.0%}".format,
        y_range=(0.0, 1.0),
        x_high=run.steps_wanted,
    )
    return Chart(title, chart)


def _checkpoints(run: RunFacts) -> list[Checkpoint]:
    best = best_checkpoint(run.validations, run.checkpoints)
    found: list[Checkpoint] = []
    first = 0
    for row in run.checkpoints:
        same = (one for one in run.validations if one.sampler_path == row.sampler_path)
        found.append(
            Checkpoint(row, first, next(same, None), best is not None and best.step == row.step)
        )
        first = row.step
    return found[::-1]


def _timeline(run: RunFacts) -> Markup | None:
    steps = [(int(row["step"]), seconds_of_step(row)) for row in run.metrics]
    if not any(math.fsum(seconds) for _, seconds in steps):
        return None
    marks = [
        (row["step"] + 1.0, f"checkpoint of step {row['step'] + 1}: {seconds:.2f} s")
        for row in run.metrics
        if (seconds := _number(row.get("seconds_checkpoint"))) is not None
    ]
    marks += [
        (float(row.step), f"validation of step {row.step}: {row.seconds:.1f} s")
        for row in run.validations
    ]
    return time_by_step(steps, _LAYERS, marks=marks, x_high=run.steps_wanted)


def _time_left(run: RunFacts) -> str:
    """How long the steps that are left take, by those before; empty where nobody trains."""
    near = [_number(row.get("seconds_total")) or 0.0 for row in run.metrics[-_LOOK_BACK:]]
    left = run.steps_wanted - len(run.metrics)
    if not near or left <= 0 or run.state is None or run.state.name != "training":
        return ""
    return f"about {duration(left * math.fsum(near) / len(near))} of training left"


def _log_of(run: RunFacts) -> Path | None:
    """The log of the embedded engine that the run was made on; None of another server."""
    if not run.checkpoints or run.checkpoints[-1].backend != "embedded":
        return None
    home = run.config.get("backend.engine_home")
    folder = Path(str(home)) if home else run.folder.absolute().parents[1] / ".visual-r1" / "engine"
    path = folder / "engine.log"
    return path if path.is_file() else None
