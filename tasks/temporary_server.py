"""The temporary Prefect server of a run that has none: started here, and ended with the run.

Prefect would start it by itself, with three faults. Ctrl-C ends it before the flow. One that dies
at its start (a damaged database, say) is started anew for two minutes, and that ends in a
traceback. And Prefect ends its server when the process exits, but not when the process is killed;
so a shell waits on a pipe that only this process holds open: when the pipe closes, however that
came about, it ends the server.
"""

import atexit
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import httpx
from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, get_current_settings

from visual_r1.errors import ConfigError

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

MOST_ATTEMPTS = 2
"""Prefect starts another server for one that ended, as if its port had been taken meanwhile."""

_guards: dict[int, "subprocess.Popen[bytes]"] = {}


def start_temporary_server() -> None:
    """Start Prefect's temporary server, where no other is set, and wait until it answers.

    Raises `ConfigError` when it has ended or does not answer within Prefect's time limit.
    """
    if PREFECT_API_URL.value():
        return
    server = _server()
    failures: list[Exception] = []

    def start() -> None:
        # The server inherits this. Ctrl-C in a terminal, or `timeout`, reaches all processes of
        # the group, and a flow whose server has gone tries to tell it that it was stopped: for
        # minutes, or with a traceback. So the server outlives the flow, and the guard ends it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            server.start()
        # AttributeError: Prefect stopped the server while this was waiting for it.
        except (RuntimeError, OSError, httpx.HTTPError, AttributeError) as error:
            failures.append(error)

    starting = threading.Thread(target=start, name="prefect-server", daemon=True)
    starting.start()
    try:
        _watch(server, starting)
    finally:
        # A thread that is still in Prefect's code when Python ends can abort the process.
        while starting.is_alive():
            if server.server_process is not None:
                server.server_process.kill()  # it does not hear what `stop` sends first
            server.stop()  # the thread then finds no server, and ends
            starting.join(0.1)
    if failures:
        raise ConfigError(_sentence("did not start")) from failures[0]
    # Before Prefect's own hook, which would wait five seconds for a signal that is not heard.
    if server.server_process is not None:
        atexit.register(server.server_process.kill)


def _server() -> "SubprocessASGIServer":
    """The one of this process. Importing it takes two seconds, so who has a server is spared it."""
    from prefect.server.api.server import SubprocessASGIServer

    return SubprocessASGIServer()


def _watch(server: "SubprocessASGIServer", starting: threading.Thread) -> None:
    """Wait while the server is being started; raise `ConfigError` when it ends again and again."""
    attempts: set[int] = set()
    while starting.is_alive():
        starting.join(0.1)
        process = server.server_process
        if process is None:
            continue
        guard(process.pid)
        attempts.add(process.pid)
        ended = len(attempts) - (process.poll() is None)
        if ended >= MOST_ATTEMPTS:
            raise ConfigError(_sentence("ends as soon as it is started"))


def guard_temporary_server(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A flow's `on_running` hook, for a flow that is called without the command."""
    del flow, flow_run, state
    if PREFECT_API_URL.value():
        return
    server = _server().server_process
    if server is not None:
        guard(server.pid)


def guard(server: int) -> None:
    """Let the server with this process id end with this process."""
    if server in _guards:
        return
    script = 'cat >/dev/null; kill -9 "$1" 2>/dev/null'
    _guards[server] = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(server)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal must not end the guard first
    )


def _sentence(what: str) -> str:
    home = get_current_settings().home
    return (
        f"Prefect's temporary server {what}: its records in {home} may be damaged, of another "
        "version of Prefect, or on a full disk. Move that folder away and start the same command "
        "again; no checkpoint or result is in it."
    )
