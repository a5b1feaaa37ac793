"""report.html: what a run came to, on one page that needs nothing but itself.

The page is made from the run folder's files alone and can be made again at any time. It loads
nothing, escapes whatever a model or a dataset wrote, and forbids all scripts but its own, which is
known by its digest (a content security policy). However long a run was, it takes less than 5 MB:
curves have at most so many points, tables so many rows, and the gallery so many bytes.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import TypeAdapter

from visual_r1.errors import RunError
from visual_r1.evaluation.metrics import Report, evaluation_folder, read_reports
from visual_r1.evaluation.statistics import Comparison, Interval
from visual_r1.perception import failures_of_run
from visual_r1.report import gallery
from visual_r1.report.charts import bin_steps, smoothing_steps
from visual_r1.report.failures import failure_section, swatches
from visual_r1.report.figures import (
    MEANINGS,
    outcome_chart,
    outcome_shares,
    training_figures,
    validation_figure,
)
from visual_r1.report.pictures import for_the_page
from visual_r1.report.repeat import flattened, repeat_of
from visual_r1.report.spending import spending_rows
from visual_r1.report.summary import (
    BASELINE,
    FINAL,
    PAGE_NAME,
    Summary,
    as_of,
    read_if_there,
    read_summary,
)
from visual_r1.report.templating import environment_of, with_minus, words
from visual_r1.report.timeline import time_of_run, timeline_figure
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.config_file import CONFIG_FILE
from visual_r1.runs.costs import cost_of_run
from visual_r1.runs.journal import MetricsRow, read_metrics
from visual_r1.runs.origin import origin_of
from visual_r1.runs.result import step_of_final
from visual_r1.runs.stored import read_stored
from visual_r1.runs.validations import Validations
from visual_r1.storage import write_text
from visual_r1.wording import accuracy_moved, duration, percent

GALLERY_BYTES = 3_000_000
PER_FATE = 40
MOST_FAMILIES = 100
MOST_ROWS = 200
"""Of alarms, evaluations and anything else that has no end of its own."""

_TEMPLATES = files("visual_r1.report") / "templates"

# The page shows whatever settings are there, also those of a version that knows others.
_SETTINGS = TypeAdapter(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Span:
    """A share with its interval, as the page draws it: a dot on a bar from 0 to 100 %."""

    name: str
    value: float
    ci95: Interval


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One line of the results or of the families: before, after, and the comparison."""

    name: str
    n: int
    spans: tuple[Span, ...]
    comparison: Comparison | None = None


def write_html(run_dir: Path) -> Path:
    """Write the report of the run in `run_dir` and return its path.

    Works at any stage: what is not there yet is left out, and the page says so. Raises `RunError`
    where the folder holds neither metrics nor an evaluation, `DataError` where a file is damaged.
    """
    metrics, reports = read_metrics(run_dir), read_reports(run_dir)
    if not metrics and not reports:
        raise RunError(
            f"{run_dir} holds neither metrics nor an evaluation, so there is nothing to report: "
            "train or evaluate first, or check the path."
        )
    summary = read_summary(run_dir)
    settings = read_if_there(run_dir / CONFIG_FILE, _SETTINGS) or {}
    validations = Validations(run_dir).rows()
    families = _family_lines(summary, reports)
    fates = gallery.within(_fates(run_dir, reports), GALLERY_BYTES)
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8").strip()
    headline, explanation = _headline(summary, reports)
    headline = (as_of(run_dir, summary) if summary else "") + headline
    shares = outcome_shares(metrics)
    wide = bin_steps(len(metrics))
    failures = failure_section(failures_of_run(run_dir))
    environment = environment_of("visual_r1.report", count="{:,.0f}".format)
    page = environment.get_template("report.html.j2").render(
        run=run_dir.name,
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        headline=headline,
        explanation=with_minus(explanation),
        summary=summary,
        ended=summary.budget.sentence if summary and summary.budget else "",
        facts=_facts(run_dir, summary, metrics, reports, settings),
        lines=_result_lines(summary, reports),
        families=sorted(families, key=lambda line: -line.n)[:MOST_FAMILIES]
        if len(families) > MOST_FAMILIES
        else families,
        more_families=max(0, len(families) - MOST_FAMILIES),
        rates=_rates(summary),
        before_and_after=_before_and_after(reports),
        curves=training_figures(metrics, reports, step_of_final(run_dir)),
        validation=validation_figure(validations),
        timeline=timeline_figure(metrics),
        times=time_of_run(run_dir, metrics, summary),
        spending=spending_rows(
            metrics, {name: one.spending for name, one in reports.items()}, validations
        ),
        repeat=repeat_of(run_dir, metrics),
        outcomes=outcome_chart(shares, "outcomes") if shares else None,
        meanings=MEANINGS,
        scan_only=any(report.second_pass for report in reports.values()),
        wide=wide,
        smoothing=smoothing_steps(-(-len(metrics) // wide)) * wide,
        steps=len(metrics),
        updated=sum(bool(row.get("updated")) for row in metrics),
        health=health(metrics),
        failures=failures,
        kinds=swatches(failures) if failures else [],
        alarms=AlarmLog(run_dir).findings()[-MOST_ROWS:],
        fates=fates,
        rule=gallery.RULE,
        gallery_families=sorted({shown.family for fate in fates for shown in fate.exhibits}),
        reports=dict(list(reports.items())[:MOST_ROWS]),
        settings=[(k, "" if v is None else str(v)) for k, v in flattened(settings).items()],
    )  # fmt: skip
    path = run_dir / PAGE_NAME
    write_text(path, page)
    return path


def _headline(summary: Summary | None, reports: Mapping[str, Report]) -> tuple[str, str]:
    """The headline and what stands under it: the evidence where the headline is the verdict."""
    if summary is None:
        if not reports:
            return "Training is under way; nothing has been evaluated yet.", ""
        name, report = _latest(reports)
        return f"Accuracy {percent(report.accuracy)} in the evaluation “{name}”.", ""
    if summary.updated_steps == 0:
        return "Nothing was trained.", summary.conclusion
    if not summary.distinguishable:
        return "No distinguishable change in accuracy.", summary.conclusion
    found = summary.accuracy
    return f"{accuracy_moved(found.baseline, found.final, found.delta)}.", f"{summary.evidence}."


def _latest(reports: Mapping[str, Report]) -> tuple[str, Report]:
    name = FINAL if FINAL in reports else max(reports)
    return name, reports[name]


def _before_and_after(reports: Mapping[str, Report]) -> list[Report]:
    """Two where both are there, else the latest one; none where nothing was evaluated."""
    if BASELINE in reports and FINAL in reports:
        return [reports[BASELINE], reports[FINAL]]
    return [_latest(reports)[1]] if reports else []


def _facts(
    run_dir: Path,
    summary: Summary | None,
    metrics: Sequence[MetricsRow],
    reports: Mapping[str, Report],
    settings: Mapping[str, Any],
) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if reports:
        _, report = _latest(reports)
        facts += [("model", report.conditions.model), ("test problems", str(report.n))]
    if origin := origin_of(run_dir):
        facts.append(("starts from", str(origin)))
    facts.append(("steps", str(len(metrics))))
    source = flattened(settings).get("data.source")
    if source:
        facts.append(("data", str(source)))
    if summary:
        facts.append(("wall time", duration(summary.wall_seconds)))
    if cost := cost_of_run(run_dir):
        facts.append(("cost", str(cost)))
    if stored := read_stored(run_dir):
        facts.append(("stored on the server", str(stored)))
    return facts


def _result_lines(summary: Summary | None, reports: Mapping[str, Report]) -> list[ResultLine]:
    if summary is not None:
        measures = (
            ("Accuracy", summary.accuracy),
            (f"pass@{summary.k}", summary.pass_at_k),
            ("Image blanked", summary.blind),
            ("From the description", summary.scan_only),
        )
        return [_compared(name, found) for name, found in measures if found is not None]
    lines: list[ResultLine] = []
    for name, report in reports.items():
        spans = [Span("accuracy", report.accuracy, report.accuracy_ci95)]
        if report.k:
            spans.append(Span(f"pass@{report.k}", report.pass_at_k, report.pass_at_k_ci95))
        if report.blind_accuracy is not None and report.blind_accuracy_ci95 is not None:
            spans.append(Span("blanked", report.blind_accuracy, report.blind_accuracy_ci95))
        if (scans := report.second_pass) is not None:
            low_high = scans.scan_only_accuracy_ci95
            spans.append(Span("from the description", scans.scan_only_accuracy, low_high))
        lines += [ResultLine(f"{name}: {span.name}", report.n, (span,)) for span in spans]
    return lines


def _family_lines(summary: Summary | None, reports: Mapping[str, Report]) -> list[ResultLine]:
    if summary is not None:
        return [_compared(name, found) for name, found in summary.by_family.items()]
    if not reports:
        return []
    label, report = _latest(reports)
    return [
        ResultLine(name, found.n, (Span(label, found.accuracy, found.accuracy_ci95),))
        for name, found in report.by_family.items()
    ]


def _compared(name: str, found: Comparison) -> ResultLine:
    spans = (
        Span("before", found.baseline, found.baseline_ci95),
        Span("after", found.final, found.final_ci95),
    )
    return ResultLine(name, found.n, spans, found)


def _rates(summary: Summary | None) -> list[tuple[str, str, str]]:
    """Plain before-and-after values that have no paired test."""
    if summary is None:
        return []
    rows: list[tuple[str, str, str]] = []
    for name, rate in summary.rates.items():
        show = "{:.1f}".format if "tokens" in name else percent
        rows.append((words(name).capitalize(), show(rate.baseline), show(rate.final)))
    return rows


def health(metrics: Sequence[MetricsRow]) -> list[tuple[str, str]]:
    """What tells a healthy run from one that only looks like it, by the rows of metrics.jsonl."""
    if not metrics:
        return []
    groups = sum(row.get("groups") or 0 for row in metrics)
    flat = sum(row.get("groups_without_contrast") or 0 for row in metrics)
    updated = sum(bool(row.get("updated")) for row in metrics)
    facts = [("Steps with an update", f"{updated} of {len(metrics)}")]
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


def _fates(run_dir: Path, reports: Mapping[str, Report]) -> list[gallery.Fate]:
    if BASELINE in reports and FINAL in reports:
        before, after = (evaluation_folder(run_dir, name) for name in (BASELINE, FINAL))
        return gallery.before_and_after(before, after, PER_FATE, for_the_page)
    if not reports:
        return []
    name, _ = _latest(reports)
    return gallery.one_evaluation(evaluation_folder(run_dir, name), name, PER_FATE, for_the_page)
