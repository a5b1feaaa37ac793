"""`visual-r1 compare`: two or more evaluations of the same problems, as pairs.

    visual-r1 compare quickstart-0a1b2c3d                      # its baseline and its final
    visual-r1 compare RUN_A RUN_B                              # the final evaluations of two runs
    visual-r1 compare RUN:baseline RUN:step-40 RUN:final       # several against the first
    visual-r1 compare A B --by family --html compare.html      # with pictures of won and lost
    visual-r1 compare --seeds A1,A2,A3 B1,B2,B3                # settings over their seeds
    visual-r1 compare --seeds BASE RUN1 RUN2 RUN3              # runs that differ in their seed

Each is an evaluation's folder, a run's folder or name (its final), or RUN:NAME, or RUN/NAME.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from visual_r1.compare.comparison import Compared, SeedsCompared, compare, compare_seeds
from visual_r1.compare.gallery import anchor_of
from visual_r1.compare.page import write_page
from visual_r1.compare.sides import Side, by_setting, find_evaluation, find_sides
from visual_r1.compare.terminal import show, show_seeds
from visual_r1.errors import ConfigError, RunError, VisualR1Error
from visual_r1.evaluation.slices import BY
from visual_r1.printing import CommandParser, Terminal, say, terminal
from visual_r1.storage import write_json

STANDARD_OUTPUT = "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare what `arguments` name; the exit status."""
    given = _parser().parse_args(list(sys.argv[1:] if arguments is None else arguments))
    try:
        _require_writable(given.most, given.html, given.json)
        if given.seeds:
            if given.by:
                raise ConfigError("--by does not go with --seeds: leave one of them out.")
            settings = by_setting(given.evaluations, given.output_dir)
            groups = [(one.label, [side.folder for side in one.sides]) for one in settings]
            against = _place(given.against, given.evaluations, groups, given.output_dir)
            if len(settings) < 2:
                raise ConfigError(
                    f"These are {len(settings[0].sides)} evaluations of one setting, and two are "
                    "compared: name those of another as well, or leave --seeds out."
                )
            found = compare_seeds(settings, against=against, rounding=given.rounding)
            sides: list[Side] = []
        else:
            sides = find_sides(given.evaluations, given.output_dir)
            if len(sides) < 2:
                raise ConfigError(
                    f"{given.evaluations[0]} is one evaluation, and two are compared: name another "
                    "one, or a run, which has a baseline and a final."
                )
            alone = [(one.label, [one.folder]) for one in sides]
            against = _place(given.against, given.evaluations, alone, given.output_dir)
            found = compare(sides, against=against, rounding=given.rounding, by=given.by or "")
        _put_out(found, sides, given.json, given.html, given.most)
    except VisualR1Error as error:
        terminal().sentence(str(error), "error", "bold red")
        return 1
    return 0


def _require_writable(most: int, *files: Path | str | None) -> None:
    """Raise `ConfigError` where what is asked for cannot be put out, before anything is read."""
    if most < 0:
        raise ConfigError(f"--most {most} is no number of ids: give 0 or more.")
    for file in files:
        if file is not None and file != STANDARD_OUTPUT and Path(file).is_dir():
            raise ConfigError(f"{str(file)!r} is a folder: name a file for the comparison.")


def _put_out(
    found: Compared | SeedsCompared,
    sides: Sequence[Side],
    to_json: str | None,
    to_html: Path | None,
    most: int,
) -> None:
    anchors: set[str] = set()
    if to_html is not None:
        anchors = write_page(found, to_html)
    if to_json == STANDARD_OUTPUT:
        say(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    if to_json is not None:
        write_json(Path(to_json), found.to_json())
    console = Terminal()
    pages = {side.label: side.page for side in sides}

    def link(label: str, id: str) -> str | None:
        """The problem on the page that was written just now, else its run's report."""
        if to_html is not None:
            anchor = anchor_of(label, id)
            return f"{to_html.absolute().as_uri()}{f'#{anchor}' if anchor in anchors else ''}"
        page = pages.get(label)
        return page.absolute().as_uri() if page else None

    if isinstance(found, Compared):
        show(found, console, link, most)
    else:
        show_seeds(found, console)
    if to_html is not None:
        console.sentence(str(to_html), "page", "dim")


def _place(
    named: str | None,
    given: Sequence[str],
    compared: Sequence[tuple[str, Sequence[Path]]],
    output_dir: Path,
) -> int:
    """Which one of `compared`, labels with folders, all others are compared with: the first where
    none is named. It is named as it was given, by its label, or as any evaluation is."""
    if named is None:
        return 0
    labels = [label for label, _ in compared]
    for names in (given, labels):
        if named in names and len(names) == len(labels):
            return list(names).index(named)
    with suppress(RunError):
        folder = find_evaluation(named, output_dir).resolve()
        for place, (_, folders) in enumerate(compared):
            if folder in [one.resolve() for one in folders]:
                return place
    raise ConfigError(f"--against {named!r} is none of what is compared: {', '.join(labels)}.")


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="visual-r1 compare",
        description="Compare evaluations of the same problems as pairs: by how much they differ, "
        "which problems were gained and lost, and whether that can be told apart.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "evaluations",
        nargs="+",
        metavar="EVALUATION",
        help="an evaluation's folder, a run's folder or name (its final evaluation; of a run that "
        "stands alone baseline and final), or RUN:NAME; with --seeds also several with commas",
    )
    parser.add_argument(
        "--against", metavar="EVALUATION", help="the reference; by default the first"
    )
    parser.add_argument(
        "--seeds",
        action="store_true",
        help="compare settings over their seeds: A1,A2 is one, and so are runs that differ in "
        "train.seed alone",
    )
    parser.add_argument(
        "--rounding",
        choices=("exact", "rounded"),
        help="which greedy verdicts; by default the evaluations' own",
    )
    parser.add_argument("--by", choices=BY, help="also compare each group of problems")
    parser.add_argument(
        "--json", metavar="FILE", help="write the result for a program; - prints it"
    )
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help="write one page with pictures of won and lost"
    )
    parser.add_argument(
        "--most", type=int, default=20, metavar="N", help="ids of changed problems that are printed"
    )
    parser.add_output_dir()
    return parser
