"""`visual-r1 disputes`: labels that the policy agrees against, and what a person decides of them.

    visual-r1 disputes runs/geometry3k-0a1b2c3d                     # the open ones, a table
    visual-r1 disputes geometry3k-0a1b2c3d quickstart-9a8b --json
    visual-r1 disputes decide geometry3k-0a1b2c3d 1207 other --answer 12.5 --why "…"
    visual-r1 disputes decide geometry3k-0a1b2c3d 1312 gold         # drop, withdrawn
    visual-r1 disputes decided                                      # what disputes.jsonl holds

Decisions lie in disputes.jsonl in the working directory (`--output-dir`). A run goes by those with
which it began.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from visual_r1.data.problem import SPLITS, Problem, Split
from visual_r1.disputes.find import Dispute, Disputes, dataset_of_run, find_disputes
from visual_r1.errors import ConfigError, DataError, VisualR1Error
from visual_r1.printing import CommandParser, Terminal, say, show_warnings, terminal
from visual_r1.progress import open_progress
from visual_r1.runs.decisions import (
    DISPUTES_FILE,
    Kind,
    content_of_problem,
    read_decisions,
    record,
)
from visual_r1.runs.named import find_run

_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """List disputes, or decide one; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    errors = terminal()
    show_warnings(errors)
    try:
        match given[:1]:
            case ["decide"]:
                return _decide(given[1:])
            case ["decided"]:
                return _decided(given[1:])
            case _:
                return _list(given)
    except VisualR1Error as error:
        errors.sentence(str(error), "error", "bold red")
        return 1


def _list(arguments: Sequence[str]) -> int:
    parser = _parser("visual-r1 disputes", "List labels that a run's answers agree against.")
    parser.epilog = "`visual-r1 disputes decide --help` and `decided --help` say more."
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its name")
    parser.add_argument("--all", action="store_true", help="those too that are decided")
    parser.add_argument("--most", type=int, default=_SHOWN, help=f"rows of a table ({_SHOWN})")
    parser.add_argument("--json", action="store_true", help="all of them as JSON")
    chosen = parser.parse_args(arguments)
    if chosen.most < 0:
        raise ConfigError(f"--most {chosen.most} is no number of rows: give 0 or more.")
    folders = [find_run(name, chosen.output_dir) for name in chosen.runs]
    found: list[Disputes] = []
    for folder in folders:
        with open_progress() as progress:
            found.append(find_disputes(folder, progress))
    if chosen.json:
        say(json.dumps([_as_json(one, everything=chosen.all) for one in found], indent=2))
    else:
        for one in found:
            show(one, Terminal(), chosen.most, everything=chosen.all)
    for sentence in (sentence for one in found for sentence in one.trouble):
        terminal().sentence(sentence, "not looked at", "bold yellow")
    return int(any(one.trouble for one in found))


def _as_json(found: Disputes, *, everything: bool) -> dict[str, Any]:
    rows = found.rows if everything else found.open
    return {
        "run": str(found.run),
        "dataset": str(found.dataset),
        "problems": found.problems,
        "disputes": [asdict(one) for one in rows],
        "trouble": list(found.trouble),
    }


def show(found: Disputes, console: Terminal, most: int, *, everything: bool) -> None:
    """A table of the first disputes of a run, and what its numbers mean."""
    rows = found.rows if everything else found.open
    counts = " and ".join(f"{count} {split}" for split, count in found.problems.items() if count)
    done = len(found.rows) - len(found.open)
    console.sentence(
        f"{found.run}: on {len(found.rows)} of {counts} problems another answer is more frequent "
        f"than the gold one; {done} are decided."
    )
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("problem", overflow="fold")
    for name in ("gold", "the policy says"):
        table.add_column(name, overflow="fold", max_width=24)
    for name in ("so often", "gold so often", "p", "expected"):
        table.add_column(name, justify="right", no_wrap=True)
    if everything:
        table.add_column("decided", overflow="fold")
    for one in rows[:most]:
        numbers = ("–", "–")
        if one.p_value is not None and one.expected is not None:
            numbers = f"{one.p_value:.2g}", f"{one.expected:.2g}"
        cells = [
            *(f"{one.problem_id} ({one.split})", one.gold, one.answer),
            *(f"{one.agreeing} of {one.n}", f"{one.right} of {one.n}", *numbers),
        ]
        table.add_row(*cells, *([_decision(one)] if everything else []))
    console.print(table)
    if len(rows) > most:
        console.sentence(f"And {len(rows) - most} more: --most, or --json for all.")
    console.sentence(
        "p: of problems with right labels, the share on which this policy agrees as much on one "
        "wrong answer; expected: how many of these problems one would see by that alone. "
        f"Decide with `visual-r1 disputes decide {found.run.name} PROBLEM gold|other|drop`."
    )


def _decision(one: Dispute) -> str:
    if one.decision is None:
        return "–"
    answer = f" {one.decision.answer}" if one.decision.answer else ""
    return f"{one.decision.decision}{answer} ({one.decision.who})"


def _decide(arguments: Sequence[str]) -> int:
    parser = _parser("visual-r1 disputes decide", "Record a decision about the label of a problem.")
    parser.add_argument("run", metavar="RUN", help="a run of the problem's dataset")
    parser.add_argument("problem", metavar="PROBLEM", help="its id")
    parser.add_argument("decision", choices=get_args(Kind))
    parser.add_argument("--answer", default="", help="the right one, with other")
    parser.add_argument("--split", choices=SPLITS, help="where several have that id")
    parser.add_argument("--why", default="", help="in a sentence; it is kept")
    parser.add_argument("--who", default="", help="by default the user of this machine")
    chosen = parser.parse_args(arguments)
    run_dir = find_run(chosen.run, chosen.output_dir)
    problem = _problem(run_dir, chosen.problem, chosen.split)
    made = record(
        run_dir.absolute().parents[1],
        problem.id,
        content_of_problem(problem),
        chosen.decision,
        gold=problem.answer,
        answer=chosen.answer,
        who=chosen.who,
        why=chosen.why,
    )
    what = f"{made.decision} {made.answer!r}" if made.answer else made.decision
    Terminal().sentence(
        f"Problem {made.problem_id} (gold {made.gold!r}): {what}, by {made.who}. Runs that begin "
        "from now on go by it, and evaluations of now; `visual-r1 regrade` grades by it."
    )
    return 0


def _problem(run_dir: Path, id: str, split: Split | None) -> Problem:
    """The problem with that id in the dataset of a run. Raises `DataError` where it is not there,
    or in several splits."""
    dataset = dataset_of_run(run_dir, run_dir.absolute().parents[1])
    splits: tuple[Split, ...] = (split,) if split else SPLITS
    found: list[tuple[Split, int]] = [
        (name, place)
        for name in splits
        for place, one in enumerate(dataset.problems(name).ids())
        if one == id
    ]
    if not found:
        where = f"its split {split}" if split else "it"
        raise DataError(f"There is no problem {id!r} in {dataset.folder}: none in {where} has it.")
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise DataError(f"Problem {id!r} is in several splits ({names}): say which with --split.")
    name, place = found[0]
    return dataset.problems(name)[place]


def _decided(arguments: Sequence[str]) -> int:
    parser = _parser("visual-r1 disputes decided", "List the decisions that hold.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    chosen = parser.parse_args(arguments)
    held = list(read_decisions(chosen.output_dir).in_force.values())
    if chosen.json:
        say(json.dumps([asdict(one) for one in held], indent=2, ensure_ascii=False))
        return 0
    console = Terminal()
    if not held:
        console.sentence(f"Nothing is decided in {chosen.output_dir / DISPUTES_FILE}.")
        return 0
    table = Table("problem", "gold", "decision", "answer", "who", "when", "why", box=None)
    for one in held:
        table.add_row(
            one.problem_id, one.gold, one.decision, one.answer, one.who, one.when, one.why
        )
    console.print(table)
    return 0


def _parser(program: str, what: str) -> CommandParser:
    parser = CommandParser(prog=program, description=what, allow_abbrev=False)
    parser.add_output_dir("runs/ and disputes.jsonl are")
    return parser
