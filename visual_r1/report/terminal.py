"""The small table that ends a run."""

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from visual_r1.printing import Terminal
from visual_r1.report.summary import Summary
from visual_r1.runs.costs import Cost
from visual_r1.wording import (
    duration,
    p_value_in_words,
    percent,
    percent_range,
    points,
    points_range,
)


def summary_table(summary: Summary, cost: Cost | None, report_path: Path) -> RenderableType:
    """Before, after and difference of each measure, the verdict, the time and the report."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.title = f"{summary.run}: {summary.steps} steps on {summary.model}"
    table.caption = "in grey: 95% intervals; p: exact McNemar"
    for heading in ("", "before", "after", "difference in points"):
        table.add_column(heading, justify="right" if heading else "left")
    measures = (
        ("accuracy", summary.accuracy),
        (f"pass@{summary.k}", summary.pass_at_k),
        ("image blanked", summary.blind),
        ("from the scan", summary.scan_only),
    )
    for name, found in measures:
        if found is not None:
            table.add_row(
                name,
                _over(percent(found.baseline), percent_range(found.baseline_ci95)),
                _over(percent(found.final), percent_range(found.final_ci95)),
                _over(
                    f"{points(found.delta)}, {p_value_in_words(found.p_value)}",
                    points_range(found.delta_ci95),
                ),
            )
    rate = summary.rates["format_rate"]
    difference = points(rate.final - rate.baseline)
    table.add_row("format rate", percent(rate.baseline), percent(rate.final), difference)
    closing = Text.assemble(
        (summary.conclusion, "bold"),
        f"\n{summary.budget.sentence}" if summary.budget else "",
        f"\nWall time {duration(summary.wall_seconds)}{f', cost {cost}' if cost else ''}. "
        f"Report: {report_path}",
    )
    return Group(table, closing)


def _over(value: str, interval: str) -> Text:
    return Text.assemble(value, "\n", (interval, "dim"))


def print_summary(
    summary: Summary, cost: Cost | None, report_path: Path, console: Terminal | None = None
) -> None:
    """Print `summary_table`, by default to standard output."""
    (console or Terminal()).print(summary_table(summary, cost, report_path))
