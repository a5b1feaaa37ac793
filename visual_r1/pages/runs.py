"""All runs in a table, and some of them over each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from visual_r1.pages.curves import FIRST, others, series, watched
from visual_r1.pages.drawing import Line, Mark, curves
from visual_r1.pages.place import NotThere, place_of
from visual_r1.pages.reading import RunFacts, facts_of
from visual_r1.pages.showing import show

router = APIRouter()

COLOURS = 6
"""So many runs can be told apart over each other."""

_HOW_TO_BEGIN = ("make train", "python flows/train_flow.py --preset geometry3k")

SORTS: Mapping[str, Callable[[RunFacts], Any]] = {
    "run": lambda run: run.name.lower(),
    "state": lambda run: run.state.name if run.state else "",
    "model": lambda run: run.model.lower(),
    "data": lambda run: run.data.lower(),
    "steps": lambda run: run.state.step if run.state else -1,
    "before": lambda run: run.before.accuracy if run.before else -1.0,
    "after": lambda run: run.after.accuracy if run.after else -1.0,
    "change": lambda run: run.result.delta if run.result else -2.0,
    "cost": lambda run: -1.0 if run.cost is None else run.cost,
    "changed": lambda run: run.state.changed_at if run.state else 0.0,
}


@router.get("/")
def listed(request: Request, q: str = "", sort: str = "changed", up: bool = False) -> Response:
    """All runs, those that hold every word of `q`, sorted by a column."""
    place = place_of(request)
    found = [facts_of(name, folder) for name, folder in place.runs().items()]
    words = q.lower().split()
    kept = [run for run in found if all(word in _text_of(run) for word in words)]
    by = SORTS.get(sort, SORTS["changed"])
    kept.sort(key=lambda run: run.name)
    kept.sort(key=by, reverse=not up)
    return show(
        request,
        "runs.html.j2",
        runs=kept,
        count=len(found),
        q=q,
        sort=sort if sort in SORTS else "changed",
        up=up,
        place=place.output_dir.absolute() / "runs",
        begin=_HOW_TO_BEGIN,
        costs=any(run.cost is not None for run in found),
        alive=sum(run.state is not None and run.state.is_at_work for run in found),
    )


def _text_of(run: RunFacts) -> str:
    state = run.state.name if run.state else "unknown"
    return " ".join([run.name, state, run.model, run.data, *map(str, run.config.values())]).lower()


@dataclass(frozen=True, slots=True)
class Beside:
    """A chart of several runs."""

    title: str
    key: str
    chart: Markup


@router.get("/beside")
def beside(
    request: Request,
    run: Annotated[list[str] | None, Query()] = None,
    metric: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """Some runs over each other: curves, results, and what differs in their configuration."""
    place = place_of(request)
    names = list(dict.fromkeys(run or ()))[:COLOURS]
    if not names:
        raise NotThere("No run was chosen: tick some in the table of runs.")
    chosen = [facts_of(name, place.run(name)) for name in names]
    rows = [row for one in chosen for row in one.metrics]
    keys = [one.key for one in FIRST] + [key for key in metric or () if key in others(rows)]
    charts = [chart for key in keys if (chart := _over_each_other(chosen, key)) is not None]
    if (validated := _validated(chosen)) is not None:
        charts.insert(1, validated)
    return show(
        request,
        "beside.html.j2",
        runs=chosen,
        charts=charts,
        chosen_metrics=[key for key in metric or () if key in others(rows)],
        others=[key for key in others(rows) if key not in (metric or ())],
        differences=differences(chosen),
        left_out=len(dict.fromkeys(run or ())) - len(names),
    )


def _over_each_other(runs: Sequence[RunFacts], key: str) -> Beside | None:
    shown = watched(key)
    lines = [
        Line(run.name, points, f"c{number}")
        for number, run in enumerate(runs, 1)
        if (points := series(run.metrics, key))
    ]
    if not lines:
        return None
    values = [y for line in lines for _, y in line.points]
    end = max((float(run.metrics[-1]["step"]) for run in runs if run.metrics), default=0.0)
    y_range = shown.range_of(values)
    chart = curves(shown.title, lines, show=shown.show, y_range=y_range, x_high=end)
    return Beside(shown.title, key, chart)


def _validated(runs: Sequence[RunFacts]) -> Beside | None:
    lines: list[Line] = []
    marks: list[Mark] = []
    for number, run in enumerate(runs, 1):
        rows = [row for row in run.validations if row.n]
        kind = f"c{number}"
        if rows:
            lines.append(Line("", tuple((float(row.step), row.accuracy) for row in rows), kind))
        marks += [
            Mark(row.step, row.accuracy, *row.accuracy_ci95, f"{run.name}, step {row.step}", kind)
            for row in rows
        ]
    if not marks:
        return None
    title = "Accuracy on validation problems"
    chart = curves(title, lines, marks=marks, show="{:.0%}".format, y_range=(0.0, 1.0))
    return Beside(title, "validation", chart)


def differences(runs: Sequence[RunFacts]) -> list[tuple[str, list[object]]]:
    """The settings in which the runs differ, each with the value of every run.

    A setting that a run's version does not know is None there.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config)
    found = [(key, [run.config.get(key) for run in runs]) for key in keys]
    return [(key, values) for key, values in found if any(one != values[0] for one in values)]
