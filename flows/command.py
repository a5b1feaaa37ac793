"""A flow as a command: flags in, an exit status out, one sentence where something is wrong.

A flow's module says `first_look()` before it imports Prefect and what the tasks need, which takes
several seconds: a mistyped flag, or an address that nobody answers at, should not wait for them. So
what is slow to import is imported here where it is used.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tasks.ahead import begin_ahead, begin_engine_ahead, let_go
from tasks.environment import prefect_server, require_prefect_server, users_settings
from tasks.interruption import INTERRUPTED, Interruptible, settle
from tasks.keys import TINKER, borrow_keys
from visual_r1.config import RunConfig
from visual_r1.config.command_line import load_config
from visual_r1.errors import RunPaused, RunStopped, VisualR1Error
from visual_r1.garbage import collect_as_ever, collect_nothing
from visual_r1.printing import Terminal, show_warnings, terminal
from visual_r1.storage import require_room

if TYPE_CHECKING:  # its statistics take half a second
    from visual_r1.report.summary import Summary

PAUSED = 3

Load = Callable[[Sequence[str] | None], RunConfig]


def first_look(
    arguments: Sequence[str] | None = None,
    *,
    needs_server: bool = True,
    load: Load = load_config,
    may_be_done: bool = False,
) -> bool:
    """End the program with status 1 and one sentence where its flags or servers are wrong.

    Of a flow that trains a run, which `may_be_done`, end it with status 0 where nothing is left to
    do, see `finished`; return whether that is so where a server of the user's is to hear of it.
    """
    collect_nothing()
    try:
        config = load(arguments)
        if needs_server:
            from visual_r1.backend.endpoint import choose_kind, probe, remote_endpoint

            if choose_kind(config, os.environ) != "embedded":
                # Asking for a Secret block imports a part of Prefect.
                if not os.environ.get(TINKER.variable):
                    borrow_keys(config)
                from visual_r1.backend.recovery import Recoveries

                show_warnings(terminal())  # it says that it waits for a busy server
                recoveries = Recoveries(config.backend.recoveries_per_hour, patient=True)
                probe(remote_endpoint(config, os.environ), recoveries)
        # The last, since it imports a part of Prefect.
        settings = users_settings(config.state_dir.absolute() / "prefect")
        if not may_be_done:
            return False
        from flows.finished import summary_where_done
        from visual_r1.doctor.preflight import require_sound

        show_warnings(terminal())
        require_sound(config)
        summary = summary_where_done(config)
    except VisualR1Error as error:
        collect_as_ever()
        show_error(terminal(), error)
        sys.exit(1)
    if summary is not None and settings.api.url is None:
        collect_as_ever()
        _show(config, summary)
        sys.exit(0)
    if summary is None:
        begin_engine_ahead(config)
    return summary is not None


def tell_done(arguments: Sequence[str] | None = None, *, load: Load = load_config) -> None:
    """Let the user's server hear that a run is done, and end the program with what it came to.

    Returns where something is left to do after all.
    """
    from flows.finished_flow import told

    try:
        with Interruptible():
            config = load(arguments)
            require_prefect_server()
            if (summary := told(config)) is None:
                return
            _show(config, summary)
    except VisualR1Error as error:
        show_error(terminal(), error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(settle())
    sys.exit(0)


def _show(config: RunConfig, summary: "Summary") -> None:
    """What came of a run, as its flow shows it at its end."""
    from visual_r1.backend.endpoint import unused_key_note
    from visual_r1.report.summary import PAGE_NAME
    from visual_r1.report.terminal import print_samples, print_summary
    from visual_r1.runs.costs import cost_of_run

    if note := unused_key_note(config, os.environ):
        terminal().sentence(note, "note", "yellow")
    print_samples(config.run_dir)
    print_summary(summary, cost_of_run(config.run_dir), config.run_dir / PAGE_NAME)


def run_as_command(
    flow: Callable[..., object],
    arguments: Sequence[str] | None = None,
    check: Callable[[RunConfig], object] | None = None,
    *,
    needs_server: bool = True,
    trains: bool = True,
    load: Load = load_config,
    begins: bool = False,
) -> int:
    """Run `flow` with the configuration of the command line, as `load` reads it; the exit status.

    What is wrong with the configuration, the run's folder or the server is found before Prefect
    starts, and the embedded engine loads while it does. `check` looks at what is in the run's
    folder; nobody else uses the folder meanwhile. `begins` says that the flow begins a run or goes
    on with one, so that its name and steps are settled by `runs.nights`. Where the flow does not
    train, see `open_run_folder`. A flow that needs no Tinker server has no run's folder either.
    """
    console = terminal()
    show_warnings(console)
    try:
        with Interruptible():
            config = load(arguments)
            _run_checked(
                flow,
                config,
                check,
                console,
                needs_server=needs_server,
                trains=trains,
                begins=begins,
            )
    except RunPaused as error:
        console.sentence(str(error), "paused", "bold yellow")
        status = PAUSED
    except RunStopped as error:
        console.sentence(str(error), "stopped", "bold yellow")
        status = INTERRUPTED
    except VisualR1Error as error:
        show_error(console, error)
        status = 1
    except KeyboardInterrupt:
        return settle()
    else:
        status = 0
    finally:
        let_go()
        collect_as_ever()
    if status in (0, PAUSED):
        # Here and not above: Prefect reads its settings when it is imported, and a mistake in the
        # configuration is said without it.
        from tasks.outcome import was_told

        was_told()
    return status


def begin_server_ahead() -> None:
    """Let Prefect's temporary server start, where one is needed, while the flow is imported.

    After `settle_prefect`, whose settings it has.
    """
    if prefect_server() is None:
        from tasks.default_server import start_temporary_server

        begin_ahead(start_temporary_server)


def _run_checked(
    flow: Callable[..., object],
    config: RunConfig,
    check: Callable[[RunConfig], object] | None,
    console: Terminal,
    *,
    needs_server: bool,
    trains: bool,
    begins: bool,
) -> None:
    from visual_r1.backend.backend import open_backend
    from visual_r1.backend.endpoint import unused_key_note
    from visual_r1.doctor.preflight import require_sound
    from visual_r1.runs.folder import open_run_folder
    from visual_r1.runs.nights import begun, newest_of_its_name
    from visual_r1.runs.start import with_start

    if note := unused_key_note(config, os.environ):
        console.sentence(note, "note", "yellow")
    require_sound(config)
    require_prefect_server()
    borrow_keys(config)
    require_room(config.state_dir)
    if not needs_server:
        _run(flow, config)
        return
    config = with_start(config)
    config = begun(config) if begins else newest_of_its_name(config)
    with open_backend(config) as backend:
        with open_run_folder(config, trains=trains) as run_dir:
            if check is not None:
                check(config)
            is_done = (run_dir / "summary.json").exists()
        from tasks.slots import its_turn

        with its_turn(config):
            if not is_done:
                backend.begin(trains=trains)
            let_go()  # from here on the run has them
            _run(flow, config)


def _run(flow: Callable[..., object], config: RunConfig) -> None:
    # Here and not above: Prefect reads its settings when it is imported.
    from tasks.outcome import outcome_in_spite_of

    if (server := prefect_server()) is not None:
        with outcome_in_spite_of(server):
            flow(config=config)
        return
    # Its module takes two seconds, and who has a server is spared them.
    from tasks.default_server import finish_temporary_server, start_temporary_server
    from tasks.watch import mend_once

    start_temporary_server()
    try:
        mend_once()  # what a command that was killed has left as Running
        with outcome_in_spite_of(None, finish_temporary_server):
            flow(config=config)
    finally:
        finish_temporary_server()


def show_error(console: Terminal, error: VisualR1Error) -> None:
    """The error's sentence, as every command shows it."""
    console.sentence(str(error), "error", "bold red")
