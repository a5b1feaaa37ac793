"""`visual-r1 bill RUN`: what the server has billed for a run, beside the estimate.

    visual-r1 bill runs/geometry3k-0a1b2c3d

The hosted service's bill is some hours late, and is told to keys that may see it. Nothing else is
asked of the server, and nothing is trained.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from flows.by_run import config_of
from flows.command import show_error
from tasks.keys import borrow_keys
from visual_r1.backend.backend import open_backend
from visual_r1.backend.endpoint import choose_kind
from visual_r1.errors import BackendError, ConfigError, VisualR1Error
from visual_r1.prices import NO_PRICES
from visual_r1.printing import CommandParser, Terminal, terminal
from visual_r1.report.page import write_html
from visual_r1.runs.bill import Bill, ask_bill
from visual_r1.runs.costs import cost_of_run, tokens_of_run
from visual_r1.runs.stored import ask_stored


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the server, show what it says and keep it beside the run; the exit status."""
    parser = CommandParser(
        prog="visual-r1 bill",
        description="What the server has billed for a run, beside the estimate.",
        allow_abbrev=False,
    )
    parser.add_argument("run", help="a run's folder, or its name under runs/")
    chosen, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    try:
        config = config_of(chosen.run, rest)
        if choose_kind(config, os.environ) == "embedded":
            raise ConfigError(
                f"{config.run_name} is on the embedded engine as things are set, which bills "
                "nothing: set TINKER_API_KEY, or TINKER_BASE_URL, as the run had it."
            )
        borrow_keys(config)
        with open_backend(config) as backend:
            bill = ask_bill(config, backend)
            try:
                stored = str(ask_stored(config, backend))
            except BackendError as error:  # the bill is shown all the same
                stored = f"not told. {error}"
        if bill is None:
            raise BackendError(
                f"The bill has nothing of {config.run_name} yet: it is some hours late."
            )
        write_html(config.run_dir)
    except VisualR1Error as error:
        show_error(terminal(), error)
        return 1
    console = Terminal()
    console.print(_table(bill, config.run_dir))
    console.print(f"stored on the server: {stored}")
    return 0


def _table(bill: Bill, run_dir: Path) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{run_dir.name}, in million tokens")
    for heading in ("", "estimate", "billed"):
        table.add_column(heading, justify="right" if heading else "left")
    counted = NO_PRICES.parts(tokens_of_run(run_dir))
    for (name, ours, _), (_, theirs, _) in zip(counted, NO_PRICES.parts(bill.tokens), strict=True):
        table.add_row(name, f"{ours / 1e6:.3f}", f"{theirs / 1e6:.3f}")
    cost = cost_of_run(run_dir)
    table.add_row("US dollars", f"{cost.usd:,.2f}" if cost else "", f"{bill.usd:,.2f}")
    late = f"; {bill.unpriced} entries have no price yet" if bill.unpriced else ""
    table.caption = f"asked at {bill.asked_at}: before credits and without storage{late}"
    return table


if __name__ == "__main__":
    sys.exit(main())
