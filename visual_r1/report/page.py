"""report.html: what a run came to, on one page that needs nothing but itself.

The page is made from the run folder's files alone and can be made again at any time. It holds no
script and forbids all (a content security policy), loads nothing, and escapes whatever a model or
a dataset wrote.

How training went, for the page: its curves by step, and what tells whether it was healthy.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from visual_r1.alarms import AlarmLog
from visual_r1.errors import RunError
from visual_r1.evaluation.metrics import Report, read_report
from visual_r1.report import gallery
from visual_r1.report.charts import (
    MEANINGS,
    Curve,
    Marker,
    Point,
    draw,
    draw_outcomes,
    outcome_shares,
    smoothing_window,
    validation_figure,
)
from visual_r1.report.summary import BASELINE, FILE_NAME, FINAL, Cost, cost_of_run
from visual_r1.runs.journal import Row, evaluation_names, read_metrics, read_object
from visual_r1.runs.validations import Validations
from visual_r1.storage import write_text
from visual_r1.wording import (
    duration,
    p_value_in_words,
    percent,
    percent_range,
    points,
    points_range,
)

Show = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart and what stands above it."""

    title: str
    chart: Markup


@dataclass(frozen=True, slots=True)
class _Watched:
    """A value of metrics.jsonl with a curve from 0 up, to `least` at least, where it is there."""

    key: str
    title: str
    what: str
    show: Show
    least: float
    sign: int = 1


_WATCHED = (
    _Watched(
        "entropy", "Entropy, nats a token", "Entropy of the sampled tokens", "{:.2f}".format, 0.1
    ),
    _Watched(
        "response_tokens_mean", "Response length, tokens", "Mean response length",
        "{:.0f}".format, 10,
    ),
    # Rounding alone stays flat at the bottom.
    _Watched(
        "kl_sampler_learner", "KL(sampler || learner), nats a token",
        "KL between sampler and learner", "{:.2g}".format, 1e-6,
    ),
    _Watched(
        "off_policy_kl", "KL off policy, nats a token", "Largest KL of the later minibatches",
        "{:.2g}".format, 1e-3,
    ),
    _Watched(
        "reward_kl", "KL to the base model, nats a response", "Mean KL to the base model",
        "{:.2g}".format, 0.1, sign=-1,
    ),
)  # fmt: skip


def curves(metrics: Sequence[Row], reports: Mapping[str, Report]) -> list[Figure]:
    """Accuracy and reward, then what is watched, as far as the steps have it."""
    if not metrics:
        return []
    end = max(row["step"] for row in metrics) + 1
    markers = [
        marker
        for name, x in ((BASELINE, 0.0), (FINAL, float(end)))
        if name in reports
        for marker in _markers(reports[name], name, x, inward=8 if name == BASELINE else -8)
    ]
    accuracy, reward = _series(metrics, "accuracy"), _series(metrics, "reward_mean")
    drawn = [
        Curve(
            "Accuracy by step",
            _described("Share of right samples", accuracy, percent),
            accuracy,
            tuple(markers),
            y_range=(0.0, 1.0),
            show="{:.0%}".format,
        ),
        Curve(
            "Mean reward by step",
            _described("Mean reward of the samples", reward, "{:.2f}".format),
            reward,
        ),
    ]
    figures = [
        Figure("Accuracy of the samples", draw(drawn[0], "curve-accuracy")),
        Figure("Mean reward", draw(drawn[1], "curve-reward")),
    ]
    return figures + [
        _figure(watched, points)
        for watched in _WATCHED
        if (points := _series(metrics, watched.key, watched.sign))
    ]


def _figure(watched: _Watched, points: tuple[Point, ...]) -> Figure:
    low, high = min(y for _, y in points), max(y for _, y in points)
    curve = Curve(
        f"{watched.what} by step",
        _described(watched.what, points, watched.show),
        points,
        y_range=(min(low, 0.0), max(high, watched.least)),
    )
    return Figure(watched.title, draw(curve, f"curve-{watched.key.replace('_', '-')}"))


def _markers(report: Report, name: str, x: float, inward: float) -> list[Marker]:
    """Greedy and sampled accuracy side by side; `inward` keeps the second off the first."""
    found = [Marker(x, report.accuracy, *report.accuracy_ci95, f"{name}, greedy")]
    if report.sampled_n:
        low, high = report.sampled_accuracy_ci95
        sampled = Marker(x, report.sampled_accuracy, low, high, f"{name}, sampled", inward, True)
        found.append(sampled)
    return found


def _series(metrics: Sequence[Row], key: str, sign: int = 1) -> tuple[Point, ...]:
    """The values of the steps that have one; rows of an earlier version may not."""
    return tuple(
        (float(row["step"]), sign * float(row[key])) for row in metrics if row.get(key) is not None
    )


def _described(what: str, points: Sequence[Point], show: Show) -> str:
    values = [value for _, value in points]
    if not values:
        return f"{what}: no step has a value."
    fifth = max(len(values) // 5, 1)
    start, end = sum(values[:fifth]) / fifth, sum(values[-fifth:]) / fifth
    return (
        f"{what}, {len(values)} steps: {show(start)} on average over the first {fifth}, "
        f"{show(end)} over the last {fifth}."
    )


def health(metrics: Sequence[Row]) -> list[tuple[str, str]]:
    """What tells a healthy run from one that only looks like it."""
    if not metrics:
        return []
    groups = sum(row.get("groups") or 0 for row in metrics)
    flat = sum(row.get("groups_without_contrast") or 0 for row in metrics)
    facts = [
        (
            "Steps with an update",
            f"{sum(bool(r.get('updated')) for r in metrics)} of {len(metrics)}",
        )
    ]
    if groups:
        facts.append(("Groups without contrast", f"{percent(flat / groups)} of {groups}"))
    for label, key, show in (
        ("Largest KL(sampler || learner) of a step, nats a token", "kl_sampler_learner", "{:.2e}"),
        ("Largest importance ratio", "ratio_max", "{:.3f}"),
        ("Largest gradient norm", "grad_norm", "{:.3g}"),
    ):
        values = [row[key] for row in metrics if row.get(key) is not None]
        if values:
            facts.append((label, show.format(max(values))))
    for label, key in (("Samples that failed", "failed"), ("Grades given up", "gave_up")):
        facts.append((label, str(sum(row.get(key) or 0 for row in metrics))))
    for label, key in (
        ("Samples that gave a gradient, mean share", "gradient_share"),
        ("Tokens clipped in later minibatches, mean share", "off_policy_clip_share"),
        ("Descriptions that held an answer, mean share", "scans_with_answer"),
        ("Descriptions that leaked all the same, mean share", "leaks"),
        ("Samples without a description, mean share", "scans_missing"),
    ):
        values = [row[key] for row in metrics if row.get(key) is not None]
        if values:
            facts.append((label, percent(sum(values) / len(values))))
    return facts


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
        loader=PackageLoader("visual_r1.report"),
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
