"""A server that takes connections and answers nothing, and one that is slow, at a program's end."""

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from tasks import silence
from tasks.outcome import remembered

PROGRAM = """
import json, sys
from tasks.interruption import listen
listen()
from tasks.environment import settle_prefect
settle_prefect()
from prefect import flow
from prefect.context import FlowRunContext
from prefect.events import emit_event
from tasks import silence
from tasks.environment import prefect_server
from tasks.outcome import outcome_in_spite_of, remembered
from tasks.records.ending import concluded
from tasks.records.logs import story
from visual_r1.printing import show_warnings, terminal

when, silence.ANSWER_WITHIN_S, silence.ASKED_EVERY_S = sys.argv[1], *map(float, sys.argv[2:])
show_warnings(terminal())

def say_and_wait(flow_run_id):
    print(flow_run_id, flush=True)
    sys.stdin.readline()
    for number in range(3):
        emit_event("a.test", {"prefect.resource.id": f"number.{number}"})

@remembered
@concluded
@flow
def spoken():
    run = FlowRunContext.get().flow_run.id
    story.info("at first")
    if when == "in the flow":
        say_and_wait(str(run))
        story.info("at last")
    return str(run)

with outcome_in_spite_of(prefect_server()):
    run = spoken()
if when == "behind it":
    say_and_wait(run)
"""


class Way:
    """To a server, whose answers are passed on late by `late_s`; None: not at all; see `end`."""

    def __init__(self, server: str) -> None:
        url = urlsplit(server)
        self._server = (url.hostname, url.port)
        self.late_s: float | None = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._near: list[socket.socket] = []
        self.api = f"http://127.0.0.1:{self._listener.getsockname()[1]}{url.path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def end(self) -> None:
        """The server is away: who is connected is told so, who comes is refused."""
        for one in (self._listener, *self._near):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, far = self._listener.accept()[0], socket.create_connection(self._server)
                self._near.append(near)
                for pair in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.late_s is None:
                    continue
                if is_answer:
                    time.sleep(self.late_s)
                target.sendall(data)
        with suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        temporary_settings({PREFECT_HOME: tmp_path_factory.mktemp("prefect")}),
        prefect_test_harness(server_startup_timeout=400),
    ):
        yield PREFECT_API_URL.value()


@pytest.fixture
def way(server: str) -> Iterator[Way]:
    one = Way(server)
    yield one
    one.end()


def ended(
    way: Way, when: str, late_s: float | None, within_s: float, tmp_path: Path
) -> tuple[str, str, int]:
    """The flow run, what the program wrote to standard error, and its exit status, where its server
    is `late_s` late from the point `when` on; for ever: it takes no connections any more."""
    patience = ["1", "0.5"] if late_s in (None, math.inf) else ["8", "3"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, when, *patience],
        cwd=tmp_path,
        env=os.environ | {"PREFECT_API_URL": way.api, "PREFECT_HOME": str(tmp_path / "home")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        try:
            run = program.stdout.readline().strip()
            if late_s == math.inf:
                way.end()
            else:
                way.late_s = late_s
            _, said = program.communicate("go on\n", timeout=within_s)
        finally:
            program.kill()
    return run, said, program.returncode


@pytest.mark.parametrize("when", ["in the flow", "behind it"])
def test_a_server_that_answers_nothing_is_not_waited_for_at_the_end(
    when: str, way: Way, tmp_path: Path
) -> None:
    """Prefect itself waits for seven minutes with its last state, and for two with three events."""
    _, said, status = ended(way, when, None, 60, tmp_path)
    assert status == 0, said
    assert " ".join(said.split()).count("note: ") == 1, said
    assert "is waited for no longer" in " ".join(said.split())


def test_a_server_that_is_away_at_the_exit_is_not_waited_for_long(way: Way, tmp_path: Path) -> None:
    _, said, status = ended(way, "behind it", math.inf, 60, tmp_path)
    assert status == 0, said
    assert " ".join(said.split()).count("is away: it is waited for no longer") == 1, said


def test_nothing_is_lost_where_the_server_is_slow(way: Way, tmp_path: Path) -> None:
    run, said, status = ended(way, "in the flow", 2.0, 120, tmp_path)
    assert (status, said) == (0, ""), said
    way.late_s = 0.0
    with get_client(sync_client=True) as client:
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId.model_validate({"any_": [run]}))
        lines = [log.message for log in client.read_logs(wanted)]
        asked = {"filter": {"event": {"name": ["a.test"]}}}
        deadline = time.monotonic() + 30
        while True:  # it writes them down some seconds later
            found = json.loads(client._client.post("/events/filter", json=asked).text)
            if found["total"] == 3 or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        state = client.read_flow_run(UUID(run)).state
    assert {"at first", "at last"} <= set(lines)
    assert found["total"] == 3
    assert state is not None
    assert state.is_completed()


def test_a_server_that_is_back_is_waited_for_at_the_end_of_a_later_flow(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flow before it, of the same process, ended while the server was silent."""
    monkeypatch.setattr(silence, "_left", [server])
    left: list[str] = []

    @remembered
    @flow
    def later() -> None:
        left.extend(silence._left)

    with temporary_settings({PREFECT_API_URL: server}):
        assert silence.was_left(server)
        later()
    assert not left and not silence.was_left(server)
    told: Future[bool] = Future()
    threading.Timer(0.2, told.set_result, [True]).start()
    assert silence._emptied(told, server)
