"""What ends a run at the terminal: a sample right, a sample wrong, and a small table."""

from contextlib import suppress
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import evaluation_folder
from visual_r1.printing import Terminal
from visual_r1.report.gallery import Exhibit, one_evaluation
from visual_r1.report.summary import FINAL, Summary
from visual_r1.runs.costs import Cost
from visual_r1.wording import (
    duration,
    p_value_in_words,
    percent,
    percent_range,
    points,
    points_range,
    printable,
)

_LINES = 2
"""So many lines of a response's end."""


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


def print_samples(run_dir: Path, console: Terminal | None = None) -> None:
    """Print one right and one wrong answer of the final evaluation, as far as there are both.

    They are chosen by a rule that does not look, see `gallery`. Where the predictions cannot be
    read nothing is printed: what comes next says so.
    """
    shown_on = console or Terminal()
    with suppress(DataError):
        for fate in one_evaluation(evaluation_folder(run_dir, FINAL), FINAL, 1, lambda _: ""):
            for shown in fate.exhibits:
                shown_on.print(_sample(fate.name, shown, shown_on.width))


def _sample(name: str, shown: Exhibit, width: int) -> RenderableType:
    """Question, the response's end, gold answer and what was extracted, within `width` cells."""
    [given] = shown.given
    inner = max(width - 2, 20)
    found = "no answer" if given.extracted is None else given.extracted
    kind = name.lower()
    rest = _start(f" · {_line(shown.family)} · {_line(shown.id)}", max(width - len(kind), 2))
    parts = [
        Text(_start(_line(shown.question), inner)),
        Text(_end(_line(given.response), _LINES * inner - inner // 8), "dim"),
        Text(_start(f"gold {_line(shown.answer)}, extracted {_line(found)}", inner)),
    ]
    style = "bold green" if given.right else "bold red"
    head = Text.assemble((kind, style), rest)
    return Group(head, *(Padding(part, (0, 0, 0, 2)) for part in parts))


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def _start(text: str, cells: int) -> str:
    """As much of the start as fits, with a mark where something is cut off."""
    if cell_len(text) <= cells:
        return text
    kept, width = "", 0
    for character in text:
        width += cell_len(character)
        if width > cells - 2:
            break
        kept += character
    return f"{kept} …"


def _end(text: str, cells: int) -> str:
    """As much of the end as fits, from the beginning of a word, with a mark where it was cut."""
    if cell_len(text) <= cells:
        return text
    at, width = len(text), 2
    while at and width + cell_len(text[at - 1]) <= cells:
        at -= 1
        width += cell_len(text[at])
    word = text.find(" ", at)
    # A word that is as long as all that fits is cut within.
    return f"… {text[word + 1 if at < word < len(text) - cells // 4 else at :]}"
