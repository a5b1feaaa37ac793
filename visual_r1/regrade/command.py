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
from typing import Any, NamedTuple

from rich.table import Table

from visual_r1.cores import cores
from visual_r1.errors import ConfigError, VisualR1Error
from visual_r1.evaluation.statistics import Interval
from visual_r1.grading import Rounding
from visual_r1.printing import CommandParser, Terminal, say, show_warnings, terminal
from visual_r1.progress import open_progress
from visual_r1.regrade.changes import Change, Example, Figures, Share
from visual_r1.regrade.regrade import Regraded, regrade
from visual_r1.runs.named import find_run
from visual_r1.wording import percent

_EXAMPLES = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Grade the runs that `arguments` name again, and say what changed; the exit status."""
    chosen = _parser().parse_args(list(sys.argv[1:] if arguments is None else arguments))
    errors = terminal()
    show_warnings(errors)
    done: list[Regraded] = []
    try:
        if chosen.processes is not None and chosen.processes < 1:
            raise ConfigError(
                f"--processes {chosen.processes} is no number of processes: give 1 or more, or "
                "leave it out for one a core."
            )
        folders = [find_run(name, chosen.output_dir) for name in chosen.runs]
        for folder in folders:
            with open_progress() as progress:
                done.append(regrade(folder, progress, processes=chosen.processes or cores()))
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
    if any(not one.basis.dataset for one in done.evaluations.values()):
        console.sentence(
            "The dataset is not there, so the gold answers of evaluations are those that their "
            "predictions have."
        )
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


def _rows(before: Figures, after: Figures, other: Figures) -> list[tuple[str, Sequence[str]]]:
    """A line for each figure: its name, n, what it was and is, and is under the other rounding."""
    found: list[tuple[str, Sequence[str]]] = []
    for name in dict.fromkeys((*before.passes, *after.passes)):
        was, now, rest = (_of_share(one.passes.get(name)) for one in (before, after, other))
        there = after.passes.get(name) or before.passes[name]
        found.append((name.replace("_", " "), _cells(there.n, was, now, rest)))
    if before.pass_at_k is not None or after.pass_at_k is not None:
        all_three = before, after, other
        samples = [_Value(one.sampled_accuracy, one.sampled_accuracy_ci95) for one in all_three]
        best = [_Value(one.pass_at_k, one.pass_at_k_ci95) for one in all_three]
        found.append(("samples", _cells(after.sampled_n, *samples)))
        found.append((f"pass@{after.k or before.k}", _cells(after.sampled_n, *best)))
    return found


class _Value(NamedTuple):
    """A share and its interval; None where there is none."""

    value: float | None = None
    ci95: Interval | None = None

    def __str__(self) -> str:
        if self.value is None or self.ci95 is None:
            return "–"
        low, high = self.ci95
        return f"{percent(self.value)} [{100 * low:.1f}, {100 * high:.1f}]"


def _of_share(one: Share | None) -> _Value:
    return _Value() if one is None else _Value(one.value, one.ci95)


def _cells(n: int, was: _Value, now: _Value, rest: _Value) -> Sequence[str]:
    other = "–" if rest.value is None else percent(rest.value)
    return str(n), str(was), "the same" if was == now else str(now), other


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
            "\n".join(map(_example, one.examples[:_EXAMPLES])),
        )
    return table


def _example(one: Example) -> str:
    if one.answer is None:
        return one.where
    return f"{one.where}: {one.answer!r} for {one.gold!r}"


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
    parser.add_output_dir("runs/ and disputes.jsonl are")
    return parser
