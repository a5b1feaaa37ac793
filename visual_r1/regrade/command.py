"""`visual-r1 regrade RUN [...]`: stored responses under the grader, and the decisions, of now.

    visual-r1 regrade runs/quickstart-0a1b2c3d
    visual-r1 regrade quickstart-0a1b2c3d geometry3k-9a8b7c6d --json > changed.json

What was graded stays as it is; the new grades are in files beside it. Exit status: 0, or 1 where a
file could not be graded.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from visual_r1.errors import VisualR1Error
from visual_r1.grading import Rounding
from visual_r1.printing import CommandParser, Terminal, logging_handler, open_logger, say, terminal
from visual_r1.progress import open_progress
from visual_r1.regrade.changes import Change, Figures, Share
from visual_r1.regrade.regrade import Regraded, regrade
from visual_r1.runs.named import find_run
from visual_r1.wording import percent

_NAMES = {"greedy": "greedy", "sampled": "accuracy of samples", "rollouts": "rollouts"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Grade the runs that `arguments` name again, and say what changed; the exit status."""
    chosen = _parser().parse_args(list(sys.argv[1:] if arguments is None else arguments))
    errors = terminal()
    logger = open_logger("visual_r1")
    logger.handlers = [logging_handler(errors)]
    logger.propagate = False
    done: list[Regraded] = []
    try:
        folders = [find_run(name, chosen.output_dir) for name in chosen.runs]
        for folder in folders:
            with open_progress() as progress:
                done.append(regrade(folder, progress, processes=chosen.processes))
    except VisualR1Error as error:
        errors.sentence(str(error), "error", "bold red")
        return 1
    if chosen.json:
        say(json.dumps([as_json(one) for one in done], indent=2, ensure_ascii=False))
    else:
        for one in done:
            show(one, Terminal())
    for one in done:
        for sentence in one.trouble:
            errors.sentence(sentence, "not graded", "bold yellow")
    return int(any(one.trouble for one in done))


def as_json(done: Regraded) -> dict[str, Any]:
    """What came of a run, JSON-able."""
    return {
        "run": str(done.run),
        "grader_version": done.grader_version,
        "rounding": done.rounding,
        "graded": done.graded,
        "changes": [asdict(one) for one in done.changes],
        "evaluations": {place: asdict(one) for place, one in done.evaluations.items()},
        "rollouts": {place: asdict(one) for place, one in done.rollouts.items()},
        "trouble": list(done.trouble),
    }


def show(done: Regraded, console: Terminal) -> None:
    """The figures before and after, and what changed and why."""
    files = [*done.evaluations.items(), *done.rollouts.items()]
    if not files:
        console.sentence(f"{done.run} has no responses that could be graded again.")
        return
    older = "under the grader that they had then"
    console.sentence(
        f"{done.graded} responses of {done.run} by grader {done.grader_version}; before is {older}."
    )
    console.print(_figures(done))
    changed = sum(one.count for one in done.changes)
    others = sum(one.other_reasons for _, one in files)
    if not changed:
        says = (
            f"No verdict changed; {others} have another reason." if others else "Nothing changed."
        )
        console.sentence(says)
    else:
        console.print(_changes(done.changes))
    for _, one in files:
        for why, count in one.not_graded.items():
            console.sentence(f"{one.basis.source}: {count} are left as they were: {why}.")
    decided = sorted({id for _, one in files for id in one.decided})
    if decided:
        shown = ", ".join(decided[:5]) + (f" and {len(decided) - 5} more" if decided[5:] else "")
        console.sentence(f"By decisions about labels: {len(decided)} problems ({shown}).")
    console.sentence(f"The new grades are in {files[0][0]} and its like; the old ones stay.")


def _figures(done: Regraded) -> Table:
    other: Rounding = "exact" if done.rounding == "rounded" else "rounded"
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("n", "before", "after", f"{other} after"):
        table.add_column(name, justify="right", no_wrap=True)
    for place, one in done.evaluations.items():
        after = one.after[done.rounding]
        for label, values in _rows(one.before, after, one.after[other]):
            table.add_row(f"{Path(place).parent.name}: {label}", *values)
    for place, one in done.rollouts.items():
        steps = f"steps {one.steps[0]} to {one.steps[1]}" if one.steps else Path(place).stem
        after = one.after[done.rounding]
        for label, values in _rows(one.before, after, one.after[other]):
            table.add_row(f"{label}, {steps}", *values)
    return table


def _rows(
    before: Figures, after: Figures, other: Figures
) -> list[tuple[str, tuple[str, str, str, str]]]:
    """A line for each figure: its name, n, and what it was and is."""
    found: list[tuple[str, tuple[str, str, str, str]]] = []
    for name in dict.fromkeys((*before.passes, *after.passes)):
        was, now, else_ = (one.passes.get(name) for one in (before, after, other))
        n = str((now or was or Share(0, 0, 0.0, (0.0, 1.0))).n)
        label = _NAMES.get(name, name.replace("_", " "))
        changed = "the same" if now == was else _share(now)
        found.append((label, (n, _share(was), changed, _share(else_, short=True))))
    if before.pass_at_k is not None or after.pass_at_k is not None:
        n = str(after.sampled_n)
        for label, value, interval in (
            ("samples", "sampled_accuracy", "sampled_accuracy_ci95"),
            (f"pass@{after.k}", "pass_at_k", "pass_at_k_ci95"),
        ):
            cells = [_cell(getattr(one, value), getattr(one, interval)) for one in (before, after)]
            cells[1] = "the same" if cells[0] == cells[1] else cells[1]
            rest = getattr(other, value)
            found.append((label, (n, *cells, "–" if rest is None else percent(rest))))
    return found


def _share(one: Share | None, *, short: bool = False) -> str:
    if one is None:
        return "–"
    return percent(one.value) if short else _cell(one.value, one.ci95)


def _cell(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or interval is None:
        return "–"
    low, high = interval
    return f"{percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"


def _changes(changes: Sequence[Change]) -> Table:
    table = Table(pad_edge=False, header_style="bold", box=None)
    for name in ("n", "pass", "before", "after", "by", "for example"):
        table.add_column(name, justify="right" if name == "n" else "left", overflow="fold")
    for one in changes:
        kind = one.kind
        table.add_row(
            str(one.count),
            kind.name,
            _verdict(kind.before, kind.reason_before),
            _verdict(kind.after, kind.reason),
            kind.cause,
            "\n".join(
                f"{example.where}: {example.answer!r} for {example.gold!r}"
                for example in one.examples[:2]
            ),
        )
    return table


def _verdict(verdict: str, reason: str) -> str:
    return f"{verdict.replace('_', ' ')}: {reason}" if reason else verdict.replace("_", " ")


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="visual-r1 regrade",
        description="Grade the stored responses of runs again, and say what changed and why.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its name")
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    parser.add_argument(
        "--processes", type=int, help="how many grade at a time (default: one a core)"
    )
    parser.add_argument(
        "--output-dir", type=Path, default=Path(), help="where runs/ and disputes.jsonl are"
    )
    return parser
