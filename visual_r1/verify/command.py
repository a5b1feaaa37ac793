"""`visual-r1 verify FOLDER`: whether what is on the disk is what was written.

    visual-r1 verify runs/quickstart-0a1b2c3d     # with its dataset and its checkpoints
    visual-r1 verify data/geo-1f0c2a33            # a dataset
    visual-r1 verify .visual-r1/engine            # all checkpoints of the embedded engine
    visual-r1 verify .visual-r1/baselines         # what runs share; models/ as well
    visual-r1 verify adapters/geometry            # what was exported; sweeps/NAME as well

Exit status: 0 where all is sound, 1 where something is not.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.table import Table

from visual_r1.errors import RunError, VisualR1Error
from visual_r1.printing import CommandParser, Terminal, terminal
from visual_r1.runs.named import find_run
from visual_r1.runs.soundness import Finding
from visual_r1.verify.examination import examine


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the folder that `arguments` name, and say what is not sound; the exit status."""
    chosen = _parser().parse_args(list(sys.argv[1:] if arguments is None else arguments))
    console = Terminal()
    try:
        folder = _folder(chosen.folder)
        findings = list(examine(folder))
    except VisualR1Error as error:
        terminal().sentence(str(error), "error", "bold red")
        return 1
    show(folder, findings, console)
    return int(any(one.verdict == "damaged" for one in findings))


def _folder(named: Path) -> Path:
    """The folder that is named, or that of a run with that name, as other commands take it."""
    if named.is_dir():
        return named
    with suppress(RunError):
        return find_run(str(named))
    raise VisualR1Error(f"{named} is no folder: name a run, a dataset or a home.")


def show(folder: Path, findings: Sequence[Finding], console: Terminal) -> None:
    """The verdict with its counts, and a table of what is not sound."""
    counts = Counter(one.verdict for one in findings)
    bad = [one for one in findings if one.verdict == "damaged"]
    for one in bad:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in (
            ("expected", one.expected),
            ("found", one.found),
            ("way out", one.way_out),
        ):
            table.add_row(f"  {label}", text)
        console.print(_place(one.file), style="bold", soft_wrap=True)
        console.print(table)
    checked = f"{counts['sound']} {_files(counts['sound'])} as they were written"
    unverified: dict[str, list[Finding]] = {}
    for one in findings:
        if one.verdict == "unverified":
            unverified.setdefault(one.found, []).append(one)
    for why, those in unverified.items():
        more = ", …" if len(those) > 1 else ""
        checked += (
            f"; {len(those)} {_files(len(those))} unverified ({_place(those[0].file)}{more}): {why}"
        )
    if bad:
        console.sentence(f"{len(bad)} damaged; {checked}.", "not sound", "bold red")
    else:
        console.sentence(f"{folder}: {checked}.", "sound", "green")


def _files(count: int) -> str:
    return "file" if count == 1 else "files"


def _place(file: Path) -> str:
    """As short as it can be given to another command."""
    return min(str(file), os.path.relpath(file), key=len)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="visual-r1 verify",
        description="Say whether a run, a dataset or an engine's home is as it was written.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder",
        type=Path,
        help="a run, by its folder or name, a dataset's folder, .visual-r1/engine, an export, or "
        "sweeps/NAME",
    )
    return parser
