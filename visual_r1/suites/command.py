"""`visual-r1 suites`: the named benchmarks in a table, or one of them in full.

visual-r1 suites
visual-r1 suites mathvista_testmini
visual-r1 suites my_suite.toml
"""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from visual_r1.errors import VisualR1Error
from visual_r1.printing import CommandParser, Terminal, terminal
from visual_r1.suites.results import published
from visual_r1.suites.suite import Suite, load_suite, suite_names


def main(arguments: Sequence[str] | None = None) -> int:
    """List the suites, or show those that are named; the exit status."""
    parser = CommandParser(
        prog="visual-r1 suites",
        allow_abbrev=False,
        description="Named benchmarks: what evaluate_flow.py --suite takes.",
    )
    parser.add_argument("name", nargs="*", help="a suite, or the path of one's own, to show whole")
    given = parser.parse_args(arguments)
    console = Terminal()
    try:
        suites = [load_suite(name) for name in given.name or suite_names()]
    except VisualR1Error as error:
        terminal().sentence(str(error), "error", "bold red")
        return 1
    if not given.name:
        console.print(listing(suites))
        console.sentence("python flows/evaluate_flow.py --suite NAME[,NAME] evaluates on them.")
    for suite in suites if given.name else ():
        show(suite, console)
    return 0


def listing(suites: Sequence[Suite]) -> Table:
    """A row a suite."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("suite", no_wrap=True)
    table.add_column("problems", justify="right")
    table.add_column("answers")
    table.add_column("reported")
    table.add_column("source", overflow="fold")
    for suite in suites:
        count = "" if suite.problems is None else f"{suite.problems:,}"
        reported = suite.convention.headline
        table.add_row(suite.name, count, suite.form, reported, suite.data.source)
    return table


def show(suite: Suite, console: Terminal) -> None:
    """All that is known of a suite."""
    asked = suite.asked
    samples = f", {asked.samples} samples at temperature {asked.temperature:g}"
    facts = {
        "problems": "" if suite.problems is None else f"{suite.problems:,}",
        "answers": f"{suite.form}: {suite.answers}",
        "source": _source(suite),
        "asked here": f"in the {asked.template} template, rounding {asked.rounding}"
        + (samples if asked.samples else ", greedy"),
        "others": suite.convention.says,
        "by": suite.convention.source,
        "contamination": suite.contamination,
        "licence": suite.licence,
        "layout": suite.layout,
    }
    console.print(f"{suite.name}: {suite.title}", style="bold")
    for name, fact in facts.items():
        if fact:
            console.print(f"  {name}: {' '.join(fact.split())}", soft_wrap=True)
    for one in published(suite):
        console.print(f"  published: {one}", soft_wrap=True)


def _source(suite: Suite) -> str:
    data = suite.data
    parts = [data.source]
    if data.subset is not None:
        parts.append(f"subset {data.subset}")
    if data.splits.test is not None:
        parts.append(f"split {data.splits.test}")
    return ", ".join(parts)
