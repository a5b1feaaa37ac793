"""`visual-r1 doctor`: the examination of the run that the other flags describe.

    visual-r1 doctor --preset geometry3k --budget 40

Exit status: 0 where all is well, 1 with a warning, 2 with an error.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from visual_r1.backend.endpoint import Kind, choose_kind
from visual_r1.config import RunConfig
from visual_r1.config.command_line import load_config
from visual_r1.doctor.checks import EXIT_CODES, Diagnosis, Severity, exit_code
from visual_r1.doctor.estimates import Workload
from visual_r1.doctor.examination import Examination, examine
from visual_r1.doctor.proposal import Proposal
from visual_r1.errors import VisualR1Error
from visual_r1.prices import Prices, prices_of
from visual_r1.printing import CommandParser, Terminal, say, terminal
from visual_r1.runs.start import with_start
from visual_r1.sft.settings import supervised
from visual_r1.wording import duration, printable

_COLOURS: dict[Severity, str] = {
    "ok": "green",
    "note": "cyan",
    "warning": "yellow",
    "error": "bold red",
}


def main(
    arguments: Sequence[str] | None = None,
    more: Callable[[RunConfig], Sequence[Diagnosis]] = lambda _: (),
    before: Callable[[RunConfig], object] = lambda _: None,
) -> int:
    """Examine the run that `arguments` describe, and say what was found; the exit status.

    `more` looks at what is not known in this package: Prefect's settings. `before` comes first: it
    gets keys from where a run would have them.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen, rest = _parser().parse_known_args(given)
    console = Terminal()
    try:
        config = with_start(load_config(rest, program="visual-r1 doctor"))
        if config.sft.responses is not None:  # as the flow of a cold start has it
            config = supervised(config)
        before(config)
    except VisualR1Error as error:
        terminal().sentence(str(error), "error", "bold red")
        return EXIT_CODES["error"]
    examination = examine(config, measure=chosen.measure, budget=chosen.budget)
    examination.add(*more(config))
    show(examination, config, console)
    return exit_code(examination.diagnoses)


def show(examination: Examination, config: RunConfig, console: Terminal) -> None:
    """The diagnoses, the worst last, then the prediction."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in sorted(examination.diagnoses, key=lambda one: list(_COLOURS).index(one.severity)):
        says = console.render_str(one.says)
        if one.advice:
            says = Text.assemble(says, "\n", (printable(one.advice), "bold"))
        table.add_row(Text(one.severity, _COLOURS[one.severity]), one.subject, says)
    console.print(table)
    if examination.work is not None:
        kind = choose_kind(config, os.environ)
        console.print(_prediction(examination.work, prices_of(config, kind), kind))
    if examination.proposal is not None:
        console.print(_proposal(examination.proposal))


def _prediction(work: Workload, prices: Prices, kind: Kind) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="what the run will take")
    table.add_column("")
    table.add_column("million tokens", justify="right")
    table.add_column("US dollars", justify="right")
    most = "at most " if work.at_most else ""
    tokens = work.tokens
    for name, count, price in prices.parts(tokens):
        cost = "" if price is None else f"{most}{count * price / 1e6:.2f}"
        table.add_row(name, f"{most}{count / 1e6:.2f}", cost)
    total = prices.cost(tokens)
    if total is not None:
        table.add_row("in all", "", f"{most}{total:.2f}")
    time = "not known: nothing was timed" if work.hours is None else duration(3600 * work.hours)
    table.caption = f"time: {time}"
    if prices.source:
        table.caption += f"; prices: {prices.source}"
    if kind == "embedded":
        table.caption += "; the embedded engine costs nothing"
    elif total is None:
        table.caption += "; set --prices.prefill, --prices.sample and --prices.train for the cost"
    return table


def _proposal(proposal: Proposal) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.title = f"what ${proposal.budget:,.2f} buy"
    for name, says in proposal.lines():
        table.add_row(name, Text(says, "bold" if name == "flags" else ""))
    table.caption = "by the rule of docs/costs.md"
    return table


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="visual-r1 doctor", allow_abbrev=False, add_help=False, exit_on_error=True
    )
    parser.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="run one real step on an adapter that is thrown away (default: on the embedded "
        "engine, where no earlier run has measured it)",
    )
    parser.add_argument(
        "--budget",
        type=_dollars,
        metavar="USD",
        help="also propose groups, batch and steps that so many US dollars pay for, and say the "
        "smallest gain that such a run could show",
    )
    parser.add_argument("-h", "--help", action=_Help)
    return parser


def _dollars(text: str) -> float:
    try:
        amount = float(text.removeprefix("$"))
    except ValueError:
        amount = math.nan
    if not (math.isfinite(amount) and amount > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of US dollars: write 40")
    return amount


class _Help(argparse.Action):
    """The doctor's own flags; those of the run are the same as the flow's."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show this")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.print_help()
        say("\nAll flags of `python flows/train_flow.py` say which run is looked at.")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
