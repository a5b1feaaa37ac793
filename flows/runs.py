"""`visual-r1 runs`: the runs of a working directory with their state, the newest first.

visual-r1 runs                 # as a table
visual-r1 runs --json          # one JSON list, for programs
visual-r1 runs --output-dir /data/visual-r1
"""

import json
import time
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from visual_r1.printing import CommandParser, Terminal, say
from visual_r1.runs.listing import RunRow, runs_in
from visual_r1.wording import percent, printable

_COLOURS = {
    "training": "cyan", "evaluating": "cyan", "waiting": "yellow", "paused": "yellow",
    "failed": "red", "killed": "red", "ended": "green", "evaluated": "green",
}  # fmt: skip

_TEXTS = ("run", "state", "model", "data")
_GIVE_WAY = ("run", "model", "data")
_LEAST = 8
"""Characters of a text that say something."""
_FIGURES = ("steps", "accuracy", "cost", "changed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the list; the exit status."""
    parser = CommandParser(
        prog="visual-r1 runs",
        description="List the runs under runs/ with their state, what they learn and what they "
        "came to; the one that changed last first.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one JSON list in place of a table")
    parser.add_output_dir()
    chosen = parser.parse_args(arguments)
    rows = runs_in(chosen.output_dir)
    if chosen.json:
        say(json.dumps([row.to_json() for row in rows], indent=2))
    elif not rows:
        place = chosen.output_dir / "runs"
        say(f"There is no run in {place} yet: python flows/train_flow.py makes the first.")
    else:
        print_runs(rows, Terminal())
    return 0


def print_runs(rows: Sequence[RunRow], console: Terminal) -> None:
    """The table, as wide as the terminal is; below it what is wrong, and why runs stopped."""
    lines = [_line(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    names = (*_TEXTS, *_FIGURES)
    there = [at for at in range(len(names)) if any(line[at].plain for line in lines)]
    widest = {at: max(len(names[at]), *(line[at].cell_len for line in lines)) for at in there}
    # Where the terminal is narrow the texts give way, by their lengths, and never the figures;
    # where it is very narrow some of them go.
    for gone in ("", "data", "model"):
        there = [at for at in there if names[at] != gone]
        give_way = [at for at in there if names[at] in _GIVE_WAY]
        needed = sum(widest[at] for at in give_way)
        spare = console.width - 3 * len(there) - 2 - sum(widest[at] for at in there) + needed
        if spare >= min(needed, _LEAST * len(give_way)):
            break
    for at in there:
        wide = widest[at]
        if at in give_way and needed > spare:
            wide = max(4, wide * spare // needed)
        side = "right" if names[at] in _FIGURES else "left"
        table.add_column(names[at], justify=side, overflow="ellipsis", no_wrap=True, width=wide)
    for line in lines:
        table.add_row(*(cell for place, cell in enumerate(line) if place in there))
    console.print(table)
    for row in rows:
        if row.fault:
            console.sentence(row.fault, "note", "yellow")
        elif row.state is not None and row.state.name in ("failed", "paused", "waiting"):
            console.sentence(row.state.sentence, row.name, _COLOURS[row.state.name])


def _line(row: RunRow) -> list[Text]:
    state = row.state
    named = state.name if state else "damaged"
    return [
        _text(row.name),
        Text(named, _COLOURS.get(named, "red" if state is None else "")),
        _text(row.model.rpartition("/")[2]),
        _text(row.data),
        Text(f"{state.step}/{state.steps}" if state else ""),
        Text(_accuracy(row)),
        Text("" if row.cost_usd is None else f"${row.cost_usd:,.2f}"),
        Text(age(time.time() - row.changed_at)),
    ]


def age(seconds: float) -> str:
    """How long ago, in one unit: `12 s`, `5 min`, `3 h`, `2 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _text(text: str) -> Text:
    return Text(printable(text))


def _accuracy(row: RunRow) -> str:
    if row.before is not None and row.after is not None:
        of = {None: "", 0: ", set aside"}.get(row.after_step, f", step {row.after_step}")
        return f"{100 * row.before:.1f} → {percent(row.after)}{of}"
    told = row.after if row.after is not None else row.before
    return "" if told is None else percent(told)
