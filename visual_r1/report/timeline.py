"""The picture of where the time of a run goes: its steps one after another, by their phases."""

import math
from collections.abc import Sequence
from pathlib import Path

from visual_r1.report.charts import Layer, Point, stacked_chart
from visual_r1.report.figures import Figure
from visual_r1.report.phases import PHASES, TimeRow, seconds_in, time_rows
from visual_r1.report.summary import Summary
from visual_r1.runs.journal import MetricsRow
from visual_r1.runs.validations import Validations
from visual_r1.wording import duration, percent


def time_of_run(
    run_dir: Path, metrics: Sequence[MetricsRow], summary: Summary | None
) -> list[TimeRow]:
    """`time_rows` of the run in `run_dir`."""
    wall = summary.wall_seconds if summary else None
    return time_rows(metrics, Validations(run_dir).rows(), wall)


def timeline_figure(metrics: Sequence[MetricsRow]) -> Figure | None:
    """Seconds of each step by phase, stacked; None where no step says what it took."""
    rows = [row for row in metrics if row.get("seconds_total") is not None]
    present = [phase for phase in PHASES if seconds_in(rows, phase) > 0]
    if not present:
        return None
    layers = [
        Layer(
            f"phase-{phase}",
            PHASES[phase],
            tuple(_point(row, phase) for row in rows),
        )
        for phase in present
    ]
    total = math.fsum(seconds_in(rows, phase) for phase in present)
    parts = "; ".join(f"{PHASES[one]} {percent(seconds_in(rows, one) / total)}" for one in present)
    described = f"{len(rows)} steps, {duration(total)} in all: {parts}."
    chart = stacked_chart(layers, "Seconds of a step by phase", described, "timeline", _seconds)
    return Figure("timeline", "Where the time of a step goes, seconds", chart)


def _point(row: MetricsRow, phase: str) -> Point:
    return float(row["step"]), float(row.get(f"seconds_{phase}") or 0.0)


def _seconds(value: float) -> str:
    return f"{value:g} s" if value < 120 else f"{value / 60:g} min"
