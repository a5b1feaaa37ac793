"""What the watch makes of a flow run, by a server that has one."""

import socket
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_HOME, temporary_settings
from prefect.states import Cancelled, Cancelling, Crashed, Failed, Pending, Running, Scheduled

from tasks import watch
from tasks.attempts import (
    Attempt,
    End,
    attempts_folder,
    read_attempt,
    server_digest,
    write_attempt,
)
from tasks.environment import prefect_server
from tasks.own_server import WORKER_NAME
from tasks.retries import REPLAYED_S, WORKER_SAYS
from tasks.watch import MOST_DEATHS, RESTART, Watch


class Server:
    """Knows one flow run, and the states that it was given."""

    def __init__(self, run: FlowRun) -> None:
        self.run, self.given = run, list[State]()
        self.told: list[State] = []

    def tell(self, *told: State, ago_s: float = 10.0) -> None:
        """Those were its states, one a second, and the last was told so long ago."""
        began = datetime.now(UTC) - timedelta(seconds=ago_s + len(told) - 1)
        self.told = [
            state.model_copy(update={"timestamp": began + timedelta(seconds=number)})
            for number, state in enumerate(told)
        ]
        self.run.state = self.told[-1]

    def read_flow_run(self, _: object) -> FlowRun:
        return self.run

    def read_flow_runs(self, *, flow_run_filter: FlowRunFilter) -> list[FlowRun]:
        state, wanted = self.run.state, flow_run_filter.state
        assert state is not None
        assert wanted is not None
        assert wanted.type is not None
        return [self.run] if state.type in (wanted.type.any_ or ()) else []

    def read_flow_run_states(self, _: object) -> list[State]:
        return self.told

    def read_task_runs(self, **_: object) -> list[object]:
        return []

    def set_flow_run_state(self, _: object, state: State, *, force: bool) -> None:
        assert force
        self.given.append(state)
        self.run.state = state


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    ours = {"prefect.worker.name": WORKER_NAME}
    run = FlowRun(id=uuid4(), flow_id=uuid4(), deployment_id=uuid4(), tags=[RESTART], labels=ours)
    known = Server(run)

    @contextmanager
    def client(**_: object) -> Any:
        yield known

    monkeypatch.setattr(watch, "get_client", client)
    with temporary_settings({PREFECT_HOME: tmp_path / "prefect"}):
        yield known


def attempt_at(server: Server) -> Attempt:
    """One whose process is dead."""
    return Attempt(str(server.run.id), 0, socket.gethostname(), api=server_digest(prefect_server()))


def test_a_run_whose_flow_can_not_be_loaded_is_not_started_for_ever(server: Server) -> None:
    server.run.state = Running()
    write_attempt(attempt_at(server))
    looks = Watch()
    for _ in range(3 * MOST_DEATHS):
        looks.look()
        # The process that the worker starts ends in its imports, and the worker says so.
        if server.run.state.is_scheduled():
            server.run.state = Crashed(message="exited with non-zero code 1")
    assert sum(state.is_scheduled() for state in server.given) == MOST_DEATHS
    assert "is not started again" in (server.run.state.message or "")


def crashed_unbegun(server: Server, *since: State, ago_s: float = 10.0) -> None:
    """A worker took it, the server was started anew, and `prefect.engine` could not ask for it."""
    told = [Scheduled(), Pending(), Pending(name="Submitting"), *since]
    server.tell(*told, Crashed(message="Process exited with status code: 1."), ago_s=ago_s)


def test_a_run_whose_process_died_before_it_began_is_started_again(server: Server) -> None:
    """Each time it does, until it is left for a person: who retries it has it counted anew."""
    looks = Watch()
    for _ in range(2):
        for death in range(1, MOST_DEATHS):
            crashed_unbegun(server)
            looks.look()
            assert server.run.state.is_scheduled(), death
            assert not looks.look()
        crashed_unbegun(server)
        (said,) = looks.look()
        assert "is not started again" in said
        assert server.run.state.is_crashed()
        assert not looks.look()
        assert not Watch().look()  # as the next watch sees it
    assert not list(attempts_folder().glob("*.json"))


def test_also_where_an_earlier_attempt_had_begun(server: Server) -> None:
    """Its file is there still, and a word that comes minutes later is of no attempt before."""
    write_attempt(replace(attempt_at(server), settled=True, deaths=1))
    server.tell(Running(), Crashed(), Scheduled(), Pending(), Crashed())
    Watch().look()
    assert server.run.state.is_scheduled()


NOT_UNBEGUN = {
    "it had begun": [Running()],
    "a person cancelled it": [Cancelling()],
    "it had failed": [Running(), Failed(message="It cannot be done.")],
    "it is left for a person": [Crashed(message="It died, and is not started again. Kept: run.")],
}


@pytest.mark.parametrize("since", NOT_UNBEGUN.values(), ids=NOT_UNBEGUN.keys())
def test_a_crash_without_an_attempt_that_is_none_before_it_began_is_left_so(
    since: list[State], server: Server
) -> None:
    crashed_unbegun(server, *since)
    Watch().look()
    assert not server.given


@pytest.mark.parametrize("without", ["the tag", "a deployment", "a worker of ours"])
def test_a_run_that_died_before_it_began_is_left_so_without(without: str, server: Server) -> None:
    crashed_unbegun(server)
    changed: dict[str, dict[str, Any]] = {
        "the tag": {"tags": []},
        "a deployment": {"deployment_id": None},
        "a worker of ours": {"labels": {"prefect.worker.name": "another machine's"}},
    }
    server.run = server.run.model_copy(update=changed[without])
    Watch().look()
    assert not server.given


def test_a_run_that_is_said_to_have_crashed_is_not_started_beside_a_process_of_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word is late, and was dated when the worker first tried to say it."""
    there: list[str] = []
    process = SimpleNamespace(
        cmdline=lambda: ["python", "-m", there[0]],
        environ=lambda: dict.fromkeys(["PREFECT__FLOW_RUN_ID"], str(server.run.id)),
    )
    monkeypatch.setattr(psutil, "process_iter", lambda: [process for _ in there])
    crashed_unbegun(server, ago_s=0.0)
    server.told[-1].timestamp -= timedelta(minutes=5)
    looks = Watch()
    looks.look()
    assert not server.given
    crashed_unbegun(server)
    for program in ("prefect.engine", "hook"):
        there[:] = [program]
        looks.look()
        assert not server.given
    there.clear()
    looks.look()
    assert server.run.state.is_scheduled()


LAUNCHER = "/home/another/site-packages/prefect/runner/_workspace_runtime_bootstrap.py"


@pytest.mark.parametrize(
    "command",
    [
        ["python", "-m", "prefect.engine"],
        ["python", LAUNCHER],
        ["prefect", "worker", "start", "--name", WORKER_NAME],
    ],
)
def test_a_run_that_may_have_died_in_another_users_hands_is_left_to_them(
    command: list[str], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def environ() -> dict[str, str]:
        raise psutil.AccessDenied

    process = SimpleNamespace(cmdline=lambda: command, environ=environ)
    monkeypatch.setattr(psutil, "process_iter", lambda: [process])
    crashed_unbegun(server)
    Watch().look()
    assert not server.given


def test_a_second_death_waits_for_the_worker_as_the_first_did(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "is_worker", lambda _: True)
    now = [0.0]
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    looks = Watch()
    for _ in range(2):
        now[0] += 1000
        server.run.state = Running()
        write_attempt(replace(attempt_at(server), parent=1))
        looks.look()
        assert server.run.state.is_running()
        now[0] += watch.WORKER_TELLS_WITHIN_S
        looks.look()
        assert server.run.state.is_scheduled()


@pytest.mark.parametrize("whose", ["another user's", "nobody's"])
def test_a_run_of_another_users_worker_of_the_same_name_is_left_alone(
    whose: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def environ() -> dict[str, str]:
        raise psutil.AccessDenied

    process = SimpleNamespace(cmdline=lambda: ["python", "-m", "prefect.engine"], environ=environ)
    there = [process] if whose == "another user's" else []
    monkeypatch.setattr(psutil, "process_iter", lambda: there)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    server.run.state = Running().model_copy(update={"timestamp": long_ago})
    assert not list(attempts_folder().glob("*.json"))
    Watch().look()
    assert bool(server.given) is (whose == "nobody's")


@pytest.mark.parametrize(
    ("taken", "is_lost"), [("before the worker began", True), ("by this worker", False)]
)
def test_what_a_dead_worker_had_taken_does_not_wait_for_the_next_one(
    taken: str, is_lost: bool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    began = now - timedelta(seconds=watch.SUBMITTED_S + (10 if is_lost else 30))
    worker = SimpleNamespace(
        cmdline=lambda: ["prefect", "worker", "start", "-n", WORKER_NAME],
        create_time=lambda: (began + timedelta(seconds=20 if is_lost else 0)).timestamp(),
        environ=dict,
    )
    monkeypatch.setattr(psutil, "process_iter", lambda: [worker])
    submitted = now - timedelta(seconds=watch.SUBMITTED_S + 10)
    server.run.state = Pending(name="Submitting").model_copy(update={"timestamp": submitted})
    Watch().look()
    assert server.run.state.is_scheduled() is is_lost, taken


def a_retry() -> list[State]:
    """The states of a run that was cancelled, and then retried."""
    kept = Cancelled(message="Stopped by a person. Kept: run up to step 4.")
    return [Running(), Cancelling(), kept, Cancelled(message=WORKER_SAYS), kept, Scheduled()]


UNASKED = {
    "the worker was not done with the cancellation": [],
    "the worker took the retry, and was not done with it": [Pending()],
    "the worker took the cancellation before for a new one": [
        Pending(),
        Crashed(message="Process exited with status code: -15."),
    ],
    "the process had begun": [Pending(), Running()],
}


@pytest.mark.parametrize("since", UNASKED.values(), ids=UNASKED.keys())
def test_a_retry_that_was_cancelled_for_the_attempt_before_is_scheduled_again(
    since: list[State], server: Server
) -> None:
    server.tell(*a_retry(), *since, Cancelled(message=WORKER_SAYS))
    asked = next(state.timestamp for state in server.told if state.is_cancelling())
    Watch().look()
    assert server.run.state.is_scheduled()
    # A process that a worker starts within a minute of the cancellation may be killed as well.
    wait = server.run.state.state_details.scheduled_time - asked
    assert (wait >= timedelta(seconds=REPLAYED_S)) is bool(since)


def test_also_where_its_message_was_mended_before_the_retry_was_missed(server: Server) -> None:
    """The file of the attempt before is there still: its death was not dealt with."""
    end = End("CANCELLED", "Cancelled", "Stopped by a person. Kept: run up to step 4.")
    write_attempt(replace(attempt_at(server), end=end))
    server.tell(*a_retry(), Cancelled(message=WORKER_SAYS))
    looks = Watch()
    looks.look()
    assert [state.message for state in server.given[:1]] == [end.message]
    server.tell(*server.told, *server.given[:1])
    looks.look()
    assert server.run.state.is_scheduled()


ASKED = {
    "no retry": a_retry()[:-1],
    "asked for": [*a_retry(), Running(), Cancelling(), Cancelled(message=WORKER_SAYS)],
    "by hand": [*a_retry(), Cancelled(message="I thought better of it.")],
    "by the server": [*a_retry(), Cancelled()],
}


@pytest.mark.parametrize("told", ASKED.values(), ids=ASKED.keys())
def test_a_retry_that_a_person_cancelled_is_left_so(told: list[State], server: Server) -> None:
    server.tell(*told)
    Watch().look()
    assert not server.given


def test_a_lost_retry_is_not_started_beside_a_process_of_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the worker starts just now is there some seconds after the word at the latest."""
    there: list[str] = []
    process = SimpleNamespace(
        cmdline=lambda: ["python", "-m", "prefect.engine"],
        environ=lambda: dict.fromkeys(["PREFECT__FLOW_RUN_ID"], str(server.run.id)),
    )
    monkeypatch.setattr(psutil, "process_iter", lambda: [process for _ in there])
    lost = [*a_retry(), Pending(), Cancelled(message=WORKER_SAYS)]
    server.tell(*lost, ago_s=0.0)
    Watch().look()
    assert not server.given
    server.tell(*lost)
    there.append("a process")
    Watch().look()
    assert not server.given
    there.clear()
    Watch().look()
    assert server.run.state.is_scheduled()


def test_a_retry_at_work_that_is_said_to_be_cancelled_is_running(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "is_at_work", lambda _: True)
    write_attempt(attempt_at(server))
    server.tell(*a_retry(), Pending(), Running(), Cancelled(message=WORKER_SAYS))
    Watch().look()
    assert server.run.state.is_running()


@pytest.mark.parametrize("kind", ["CANCELLED", "FAILED", None])
def test_a_retry_that_a_worker_has_taken_does_not_end_as_the_attempt_before_did(
    kind: str | None, server: Server
) -> None:
    """Its file is there still: the watch looks every other second, or waited for the worker."""
    end = End(kind, kind.capitalize(), "of the attempt before") if kind else None
    write_attempt(replace(attempt_at(server), end=end))
    server.run.state = Pending()
    Watch().look()
    assert not server.given
    settled = read_attempt(str(server.run.id))
    assert settled is not None
    assert (settled.settled, settled.end) == (True, None)


def test_a_server_that_refuses_to_be_looked_at_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from flows.operating import watch as command

    def refused(_: Watch) -> list[str]:
        raise httpx.HTTPError("401 Unauthorized")

    monkeypatch.setattr(command, "settle_prefect", lambda: None)
    monkeypatch.setattr(command, "prefect_server", lambda: "http://me:secret@127.0.0.1:9/api")
    monkeypatch.setattr(command, "require_prefect_server", lambda: None)
    monkeypatch.setattr(Watch, "look", refused)
    assert command.main(["--once"]) == 1
    said = "".join(capfd.readouterr())
    assert "401 Unauthorized" in said
    assert "Traceback" not in said
    assert "secret" not in said
