"""The temporary Prefect server of a run that has none must not outlive it.

Prefect ends it when the process exits, but not when the process is killed. So a shell waits on a
pipe that only this process holds open: when the pipe closes, however that came about, it ends the
server.
"""

import subprocess
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.server.api.server import SubprocessASGIServer

_guards: list["subprocess.Popen[bytes]"] = []


def guard_temporary_server(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A flow's `on_running` hook; does nothing where the server is not our own."""
    del flow, flow_run, state
    server = SubprocessASGIServer().server_process
    if server is None or _guards:
        return
    script = 'cat >/dev/null; kill "$1" 2>/dev/null'
    guard = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(server.pid)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal must not end the guard first
    )
    _guards.append(guard)
