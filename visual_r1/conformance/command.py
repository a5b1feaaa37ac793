"""`visual-r1 probe`: what a Tinker server does of all that training asks of it.

    visual-r1 probe http://host:port      # its key in TINKER_API_KEY
    visual-r1 probe                       # the server of TINKER_BASE_URL, else hosted Tinker

Exit status: 0 where training works, also with features off; 1 where it cannot.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from visual_r1.backend.endpoint import remote_endpoint
from visual_r1.config import RunConfig
from visual_r1.conformance.conversation import WITHIN_S
from visual_r1.conformance.examination import examine_server
from visual_r1.conformance.findings import Finding, Report, Verdict
from visual_r1.errors import BackendError, VisualR1Error
from visual_r1.printing import CommandParser, Terminal, open_logger, say, terminal

_STYLES: dict[Verdict, str] = {"works": "green", "fails": "bold red", "not tried": "yellow"}


def main(
    arguments: Sequence[str] | None = None,
    before: Callable[[RunConfig], object] = lambda _: None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Examine a server and say what was found; the exit status.

    `before` comes first: it gets the key from where a run would have it.
    """
    given = _parser().parse_args(arguments)
    try:
        config = RunConfig.model_validate({"backend": {"server": "remote"}})
        before(config)
        named = {**environ, "TINKER_BASE_URL": given.url} if given.url else environ
        if not named.get("TINKER_API_KEY"):
            raise BackendError(
                "A Tinker server needs a key and TINKER_API_KEY is not set: export that of the "
                "server that the URL names, or of hosted Tinker; `visual-r1 engine` serves one on "
                "this machine and says its key."
            )
        open_logger("tinker").setLevel("CRITICAL")  # it logs each refusal that is a finding here
        report = examine_server(remote_endpoint(config, named), given.model, given.within)
    except VisualR1Error as error:
        terminal().sentence(str(error), "error", "bold red")
        return 1
    if given.json:
        say(json.dumps(report.to_json(), indent=2))
    else:
        show(report, Terminal())
    return 0 if report.trains else 1


def show(report: Report, console: Terminal) -> None:
    """The table, then in a sentence each whether training works and which features are off."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, justify in (("call", "left"), ("", "left"), ("seconds", "right")):
        table.add_column(title, justify=justify, overflow="fold")  # pyright: ignore[reportArgumentType]
    table.add_column("for", overflow="fold")
    table.add_column("seen", overflow="fold")
    for needed in (True, False):
        for one in report.findings:
            if one.call.needed is needed:
                table.add_row(*_row(one))
        table.add_section()
    console.print(table)
    model = f", model {report.model}" if report.model else ""
    console.sentence(
        f"{report.server}{model}, SDK {report.sdk}: {report.seconds:.1f} s, "
        f"{report.tokens.count:.0f} tokens."
    )
    for path in report.left:
        console.sentence(
            f"{path} could not be deleted; it expires within the hour.", "note", "yellow"
        )
    if not report.trains:
        wrong = next(one for one in report.findings if one.call.needed and one.verdict != "works")
        console.sentence(
            f"Training cannot work with this server: {wrong.call.name} "
            f"({wrong.call.used_for}) {wrong.verdict}; {wrong.says.removesuffix('.')}.",
            *("error", "bold red"),
        )
    elif report.off:
        off = ", ".join(one.call.used_for for one in report.off)
        console.sentence(f"Training works with this server; off are: {off}.", "note", "yellow")
    else:
        console.sentence("Training works with this server, with every feature that was tried.")


def _row(one: Finding) -> list[Text | str]:
    seconds = "" if one.seconds is None else f"{one.seconds:.2f}"
    verdict = one.verdict if one.verdict == "works" or one.call.needed else f"{one.verdict}: off"
    return [
        one.call.name,
        Text(verdict, _STYLES[one.verdict]),
        seconds,
        one.call.used_for,
        one.says,
    ]


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="visual-r1 probe",
        allow_abbrev=False,
        description="Try every call that training makes against a Tinker server, in a session that "
        "leaves no checkpoint behind; under 60 seconds and 20,000 tokens.",
    )
    parser.add_argument(
        "url",
        nargs="?",
        help="address of the server; default: TINKER_BASE_URL, else hosted Tinker. Its key is read "
        "from TINKER_API_KEY",
    )
    parser.add_argument(
        "--model",
        help="which of the server's models is tried; default: the shipped one or a preset's, else "
        "the first that can be trained",
    )
    parser.add_argument(
        "--within", type=float, default=WITHIN_S, metavar="SECONDS", help="time for all of it (60)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
