"""What evaluations by suites found, beside how others report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table

from visual_r1.evaluation.metrics import Report, evaluation_folder, read_report, write_report
from visual_r1.printing import Terminal
from visual_r1.suites.suite import Suite


class Figure(NamedTuple):
    """A share with its 95 % interval, and what it is called."""

    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def evaluation_name(policy: str, suite: Suite) -> str:
    """The name of an evaluation: of the policy, and of the suite."""
    return f"{policy}-{suite.name}"


def name_suite(run_dir: Path, policy: str, suite: Suite) -> None:
    """Let the report say which suite it is of. Raises `DataError` where there is none."""
    folder = evaluation_folder(run_dir, evaluation_name(policy, suite))
    report = read_report(folder)
    if report.suite != suite.name:
        write_report(folder, replace(report, suite=suite.name))


def headline(suite: Suite, report: Report) -> Figure:
    """The figure that is put beside those of others."""
    if suite.convention.headline == "greedy" or not report.k:
        return Figure("greedy", report.accuracy, *report.accuracy_ci95)
    return Figure(f"avg@{report.k}", report.sampled_accuracy, *report.sampled_accuracy_ci95)


def show_results(run_dir: Path, policy: str, suites: Sequence[Suite], console: Terminal) -> None:
    """A row a suite with its figures, and beneath it by which convention others report theirs."""
    console.print(table_of(run_dir, policy, suites))
    for suite in suites:
        if suite.departures:
            console.sentence(
                f"{suite.name}: asked otherwise than by its convention, as the command says: "
                f"{', '.join(suite.departures)}."
            )
        console.sentence(f"{suite.name}: others report: {_in_a_line(suite.convention.says)}")
        for told in published(suite):
            console.sentence(f"    {told}")
        console.sentence(f"    What may be known of it: {_in_a_line(suite.contamination)}")


def table_of(run_dir: Path, policy: str, suites: Sequence[Suite]) -> Table:
    """The figures of evaluations by suites; `DataError` where one is missing."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in (policy, "n", "as others report it", "greedy", "blind"):
        table.add_column(title, justify="left" if title == policy else "right", overflow="fold")
    for suite in suites:
        report = read_report(evaluation_folder(run_dir, evaluation_name(policy, suite)))
        blind = "" if report.blind_accuracy is None else f"{report.blind_accuracy:.1%}"
        rows = str(report.n)
        if suite.problems is not None and report.n != suite.problems:
            rows += f" of {suite.problems}"
        table.add_row(
            suite.name,
            rows,
            str(headline(suite, report)),
            f"{report.accuracy:.1%}",
            blind,
        )
    return table


def _in_a_line(text: str) -> str:
    return " ".join(text.split())


def published(suite: Suite) -> list[str]:
    """The figures of others, each with its convention."""
    told: list[str] = []
    for one in suite.published:
        values = one.value if isinstance(one.value, tuple) else (one.value,)
        figures = " -> ".join(f"{value:.1%}" for value in values)
        told.append(f"{one.who}: {figures} ({one.convention})")
    return told
