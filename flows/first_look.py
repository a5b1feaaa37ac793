"""What is wrong with the command line or the server is said before the slow imports.

Prefect and what the tasks need take several seconds to import; a mistyped flag or an address that
nobody answers at should not have to wait for them.
"""

import os
import sys
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from visual_r1.config import RunConfig
from visual_r1.config.command_line import load_config
from visual_r1.errors import RunPaused, VisualR1Error


def first_look(
    arguments: Sequence[str] | None = None,
    *,
    needs_server: bool = True,
    load: Callable[[Sequence[str] | None], RunConfig] = load_config,
) -> None:
    """End the program with status 1 and one sentence where its flags or its server are wrong.

    From here on Ctrl-C is answered with a sentence too, also in the seconds of the slow imports.
    """
    sys.excepthook = _without_traceback_of_ctrl_c
    try:
        config = load(arguments)
        if not needs_server:
            return
        from visual_r1.backend.endpoint import choose_kind, probe, remote_endpoint

        if choose_kind(config, os.environ) != "embedded":
            probe(remote_endpoint(config, os.environ))
    except VisualR1Error as error:
        show_error(terminal(), error)
        sys.exit(1)


def _without_traceback_of_ctrl_c(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        show_stopped(terminal())
    else:
        sys.__excepthook__(kind, error, trace)


def terminal() -> Console:
    """Where a command speaks to its user."""
    return Console(stderr=True, emoji=False)  # tinker://…:train:0 holds no locomotive


def show_stopped(console: Console) -> None:
    """What Ctrl-C is answered with."""
    console.print("Stopped. The same command goes on from the last checkpoint.")


def show_paused(console: Console, paused: RunPaused) -> None:
    """Why an alarm paused the run, and how it goes on."""
    console.print("[bold yellow]paused[/]:", escape(str(paused)), soft_wrap=True)


def show_error(console: Console, error: VisualR1Error) -> None:
    """The error's sentence, as every command shows it."""
    console.print("[bold red]error[/]:", escape(str(error)), soft_wrap=True)
