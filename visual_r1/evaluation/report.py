"""report.html: what a run came to, on one page that needs nothing but itself.

The page is made from the run folder's files alone and can be made again at any time. It holds no
script and forbids all (a content security policy), loads nothing, and escapes whatever a model or
a dataset wrote.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from visual_r1.alarms import AlarmLog
from visual_r1.errors import RunError
from visual_r1.evaluation import gallery
from visual_r1.evaluation.charts import smoothing_window
from visual_r1.evaluation.cost import Cost, cost_of_run
from visual_r1.evaluation.metrics import Report, read_report
from visual_r1.evaluation.outcome_chart import MEANINGS, draw_outcomes, outcome_shares
from visual_r1.evaluation.summary import BASELINE, FILE_NAME, FINAL
from visual_r1.evaluation.training_section import curves, health
from visual_r1.evaluation.validation_chart import validation_figure
from visual_r1.evaluation.wording import (
    duration,
    p_value_in_words,
    percent,
    percent_range,
    points,
    points_range,
)
from visual_r1.runs.journal import Row, evaluation_names, read_metrics, read_object
from visual_r1.runs.validations import Validations
from visual_r1.storage import write_text

PAGE_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class Span:
    """A share with its interval, as the page draws it: a dot on a bar from 0 to 100 %."""

    name: str
    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the results or of the families: before, after, and the comparison."""

    name: str
    n: int
    spans: tuple[Span, ...]
    comparison: Mapping[str, Any] | None = None


def write_html(run_dir: Path) -> Path:
    """Write the report of the run in `run_dir` and return its path.

    Works at any stage: what is not there yet is left out, and the page says so. Raises `RunError`
    where the folder holds neither metrics nor an evaluation, `DataError` where a file is damaged.
    """
    metrics = read_metrics(run_dir)
    reports = {
        name: read_report(run_dir / "evaluations" / name) for name in evaluation_names(run_dir)
    }
    if not metrics and not reports:
        raise RunError(
            f"{run_dir} holds neither metrics nor an evaluation, so there is nothing to report: "
            "train or evaluate first, or check the path."
        )
    summary = read_object(run_dir / FILE_NAME)
    config = read_object(run_dir / "config.json") or {}
    shares = outcome_shares(metrics)
    page = _environment().get_template("report.html.j2").render(
        run=run_dir.name,
        headline=_headline(summary, reports),
        explanation=_with_minus(_explanation)(summary),
        summary=summary,
        facts=_facts(summary, metrics, reports, config, cost_of_run(run_dir)),
        lines=_result_lines(summary, reports),
        families=_family_lines(summary, reports),
        rates=_rates(summary),
        curves=curves(metrics, reports),
        validation=validation_figure(Validations(run_dir).rows()),
        outcomes=draw_outcomes(shares, "outcomes") if shares else None,
        meanings=MEANINGS,
        scan_only=any(report.second_pass for report in reports.values()),
        smoothing=smoothing_window(len(metrics)),
        steps=len(metrics),
        updated=sum(bool(row.get("updated")) for row in metrics),
        health=health(metrics),
        alarms=AlarmLog(run_dir).findings(),
        kinds=_gallery(run_dir, reports),
        rule=gallery.RULE,
        reports=reports,
        settings=_flattened(config),
    )  # fmt: skip
    path = run_dir / PAGE_NAME
    write_text(path, page)
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("visual_r1.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        percent_range=percent_range,
        points=_with_minus(points),
        points_range=_with_minus(points_range),
        p_value=p_value_in_words,
        duration=duration,
        words=_words,
    )
    return environment


def _with_minus(show: Callable[[Any], str]) -> Callable[[Any], str]:
    """The same with real minus signs, which a terminal may not have."""
    return lambda value: re.sub(r"-(?=\d)", "−", show(value))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _headline(summary: Row | None, reports: Mapping[str, Report]) -> str:
    if summary is None:
        if not reports:
            return "Training is under way; nothing has been evaluated yet."
        name, report = _latest(reports)
        return f"Accuracy {percent(report.accuracy)} in the evaluation “{name}”."
    if summary["updated_steps"] == 0:
        return "Nothing was trained."
    if not summary["distinguishable"]:
        return "No distinguishable change in accuracy."
    verb = "rose" if summary["delta"] > 0 else "fell"
    return (
        f"Accuracy {verb} by {abs(100 * summary['delta']):.1f} points, from "
        f"{percent(summary['baseline'])} to {percent(summary['final'])}."
    )


def _explanation(summary: Row | None) -> str:
    """What stands under the headline: the evidence where the headline is the verdict."""
    if summary is None:
        return ""
    if summary["updated_steps"] and summary["distinguishable"]:
        return f"{summary['evidence']}."
    return str(summary["conclusion"])


def _latest(reports: Mapping[str, Report]) -> tuple[str, Report]:
    name = FINAL if FINAL in reports else max(reports)
    return name, reports[name]


def _facts(
    summary: Row | None,
    metrics: Sequence[Row],
    reports: Mapping[str, Report],
    config: Row,
    cost: Cost | None,
) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if reports:
        _, report = _latest(reports)
        facts += [("model", report.conditions.model), ("test problems", str(report.n))]
    facts.append(("steps", str(len(metrics))))
    source = config.get("data", {}).get("source")
    if source:
        facts.append(("data", str(source)))
    if summary:
        facts.append(("wall time", duration(summary["wall_seconds"])))
    if cost:
        facts.append(("cost", str(cost)))
    return facts


def _result_lines(summary: Row | None, reports: Mapping[str, Report]) -> list[Line]:
    if summary is not None:
        measures = (
            ("Accuracy", summary),
            (f"pass@{summary['k']}", summary["pass_at_k"]),
            ("Image blanked", summary["blind"]),
            ("From the description", summary.get("scan_only")),
        )
        return [_compared(name, found) for name, found in measures if found]
    lines: list[Line] = []
    for name, report in reports.items():
        spans = [Span("accuracy", report.accuracy, report.accuracy_ci95)]
        spans.append(Span(f"pass@{report.k}", report.pass_at_k, report.pass_at_k_ci95))
        if report.blind_accuracy is not None and report.blind_accuracy_ci95 is not None:
            spans.append(Span("blanked", report.blind_accuracy, report.blind_accuracy_ci95))
        if (scans := report.second_pass) is not None:
            low_high = scans.scan_only_accuracy_ci95
            spans.append(Span("from the description", scans.scan_only_accuracy, low_high))
        lines += [Line(f"{name}: {span.name}", report.n, (span,)) for span in spans]
    return lines


def _family_lines(summary: Row | None, reports: Mapping[str, Report]) -> list[Line]:
    if summary is not None:
        return [_compared(name, found) for name, found in summary["by_family"].items()]
    if not reports:
        return []
    label, report = _latest(reports)
    return [
        Line(name, found.n, (Span(label, found.accuracy, found.accuracy_ci95),))
        for name, found in report.by_family.items()
    ]


def _compared(name: str, found: Mapping[str, Any]) -> Line:
    spans = (
        Span("before", found["baseline"], tuple(found["baseline_ci95"])),
        Span("after", found["final"], tuple(found["final_ci95"])),
    )
    return Line(name, found["n"], spans, found)


def _rates(summary: Row | None) -> list[tuple[str, str, str]]:
    """Plain before-and-after values that have no paired test."""
    if summary is None:
        return []
    rows: list[tuple[str, str, str]] = []
    for name, values in summary["rates"].items():
        show = "{:.1f}".format if "tokens" in name else percent
        label = name.replace("_", " ").capitalize()
        rows.append((label, show(values["baseline"]), show(values["final"])))
    return rows


def _gallery(run_dir: Path, reports: Mapping[str, Report]) -> list[gallery.Kind]:
    folder = run_dir / "evaluations"
    if BASELINE in reports and FINAL in reports:
        return gallery.before_and_after(folder / BASELINE, folder / FINAL)
    if not reports:
        return []
    name, _ = _latest(reports)
    return gallery.one_evaluation(folder / name, name)


def _flattened(config: Row, prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, dict):
            rows += _flattened(value, f"{prefix}{key}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            rows.append((f"{prefix}{key}", "" if value is None else str(value)))
    return rows
