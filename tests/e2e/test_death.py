"""What becomes of runs whose flow, worker or server dies, with a real server, worker and watch."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from prefect import task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Cancelling, Crashed, Failed, Pending, State
from prefect.states import Running as RunningState
from prefect_home import Give
from train_command import SMALL

from tasks import watch
from tasks.attempts import Attempt, End, read_attempt, server_digest, write_attempt
from tasks.own_server import WORKER_NAME
from tasks.retries import WORKER_SAYS
from tasks.slots import its_turn
from tasks.watch import RESTART, Watch
from trials.operated import Operated
from visual_r1.config import RunConfig

FIELDS = SMALL | {"train.steps": 4, "logging.wandb": False, "validation.every": 0}


class Run(NamedTuple):
    """A flow run, and the folder of its run."""

    id: str
    folder: Path

    def lines(self, name: str) -> int:
        path = self.folder / name
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def ledger(self) -> int:
        return self.lines("ledger.jsonl")

    @property
    def adapter(self) -> bytes:
        return (self.folder / "export/adapter/adapter_model.safetensors").read_bytes()


class House(NamedTuple):
    """What is operated, and two deployments: no worker takes the runs of `unworked`."""

    operated: Operated
    deployment: str
    unworked: str
    folder: Path

    def train(self, name: str, **changes: Any) -> Run:
        """A run of that name; all of them have one engine home."""
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        fields = FIELDS | {"run.name": name, "output_dir": str(self.folder)} | changes
        flow_run = self.operated.run(self.deployment, preset="quickstart", overrides=fields)
        return Run(flow_run, self.folder / "runs" / name)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, give_home: Give) -> Iterator[House]:
    folder = give_home(tmp_path_factory.mktemp("house"))
    with Operated(folder, folder / ".visual-r1" / "prefect") as operated:
        operated.start()
        flow = "flows/train_flow.py:train"
        unworked = operated.deploy(flow, "unworked", pool=None)
        yield House(operated, operated.deploy(flow, "small"), unworked, folder)


def test_killed_mid_chunk_it_goes_on_by_itself_and_another_run_waits_for_the_home(
    house: House,
) -> None:
    """The second run is the first's control: it was not killed, and has the same bits."""
    operated = house.operated
    first = house.train("first")
    operated.until(lambda: first.ledger() == 1, "the first chunk of two is saved")
    process = operated.flow_process(first.id)
    assert process is not None
    operated.until(lambda: first.lines("metrics.jsonl") == 3, "its second chunk is trained")
    process.suspend()  # in the middle of it, however fast the machine is
    second = house.train("second")
    operated.until(lambda: operated.state(second.id)["name"] == "Waiting", "the second run waits")
    message = operated.state(second.id)["message"]
    assert f"run first (pid {process.pid})" in message

    process.kill()
    operated.until(lambda: operated.state(second.id)["name"] == "Running", "it has the home", 30)
    for run in (first, second):
        operated.until_state(run.id, "COMPLETED")
    said = operated.states(first.id)
    assert [kind for kind, _ in said].count("CRASHED") >= 1
    assert any(kind == "SCHEDULED" and "up to step 2" in message for kind, message in said)
    tasks = operated.tasks(first.id)
    assert ("train steps 0 to 1", "Cached") in tasks  # found done by the second attempt
    assert not operated.open_runs()
    assert first.adapter == second.adapter


def test_cancelled_it_says_what_is_kept_and_a_retry_goes_on(house: House) -> None:
    """Meanwhile the record of a chunk was damaged, and the newest checkpoint has gone."""
    operated = house.operated
    run = house.train("cancelled", train__steps=12)
    operated.until(lambda: run.ledger() == 2, "two chunks are saved")
    operated.set_state(run.id, "CANCELLING")
    assert operated.until_state(run.id, "CANCELLED") < 10
    rows = [json.loads(line) for line in (run.folder / "ledger.jsonl").read_text().splitlines()]
    kept = f"Kept: cancelled up to step {rows[-1]['step']}"
    assert rows[-1]["step"] < 12
    assert kept in operated.state(run.id)["message"]
    # Prefect's worker says something else later, which is mended.
    operated.until(lambda: len(cancelled(operated, run)) == 3, "worker and watch have spoken")
    assert kept in operated.state(run.id)["message"]

    for record in (house.folder / "results").glob("train_chunk*"):
        record.write_bytes(record.read_bytes()[:-20])
    session, _, rest = rows[-1]["state_path"].removeprefix("tinker://").partition(":train:")
    number, _, name = rest.partition("/")
    home = house.folder / ".visual-r1" / "engine"
    shutil.rmtree(home / "sessions" / session / f"train-{number}" / name)

    # Where the server is busy, its worker takes this cancellation for one of the retry and kills
    # that: it begins again by itself then, 75 s after the cancellation (tasks.retries).
    operated.set_state(run.id, "SCHEDULED")
    operated.until_state(run.id, "COMPLETED")
    assert not operated.open_runs()
    assert run.ledger() == 6


def test_a_retry_that_comes_before_the_worker_is_done_with_the_cancellation_goes_on(
    house: House,
) -> None:
    """The worker says Cancelled by force some seconds after the flow, whatever is the case then.

    It takes no run meanwhile, as one does that asks every fifteen seconds, or has enough to do:
    so what it says is said of the retry.
    """
    operated = house.operated
    run = house.train("retried", train__steps=12)
    operated.until_state(run.id, "RUNNING")
    with operated.held_back():
        operated.until(lambda: run.ledger() >= 1, "the first chunk is saved")
        operated.set_state(run.id, "CANCELLING")
        operated.until_state(run.id, "CANCELLED")
        operated.set_state(run.id, "SCHEDULED")
        operated.until(lambda: WORKER_SAYS in cancelled(operated, run), "the worker is done")
    operated.until_state(run.id, "COMPLETED")
    assert run.ledger() == 6
    assert not operated.open_runs()


def cancelled(operated: Operated, run: Run) -> list[str]:
    return [message for kind, message in operated.states(run.id) if kind == "CANCELLED"]


def test_worker_and_server_die_and_the_run_ends_all_the_same(house: House) -> None:
    """What it prints goes nowhere, and whom it tells is away: its files are what counts."""
    operated = house.operated
    run = house.train("alone")
    operated.until(lambda: run.ledger() == 1, "the first chunk is saved")
    operated.kill("worker", "server")
    try:
        operated.until(lambda: (run.folder / "summary.json").exists(), "the run is finished")
    finally:  # the tests behind this one need them
        operated.start("server", "worker")
    operated.until_state(run.id, "COMPLETED")
    assert [kind for kind, _ in operated.states(run.id)].count("SCHEDULED") <= 1  # not done twice
    operated.until(lambda: not operated.open_runs(), "no task run is a ghost", 30)


def test_a_server_that_is_started_anew_before_the_flow_begins_keeps_no_run_from_it(
    house: House,
) -> None:
    """Prefect's engine asks it for the flow run first, and dies where it does not answer."""
    operated = house.operated
    run = house.train("unbegun")
    operated.until(lambda: operated.flow_process(run.id), "the worker has started a process")
    operated.kill("server")
    try:
        operated.until(lambda: not operated.flow_process(run.id), "it has died")
    finally:  # the tests behind this one need it
        operated.start("server")
    operated.until_state(run.id, "COMPLETED")
    again = "Started again after a crash. Nothing had been begun."
    assert ("SCHEDULED", again) in operated.states(run.id)


# What the watch says of each kind of death, without the runs: their files are written here.


@pytest.fixture
def asked(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SyncPrefectClient]:
    """A client of the server; attempts are looked for in a Prefect home of the test's own."""
    monkeypatch.setenv("PREFECT_API_URL", house.operated.api)
    settings = {PREFECT_API_URL: house.operated.api, PREFECT_HOME: tmp_path}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


def left_behind(
    house: House,
    client: SyncPrefectClient,
    state: State,
    tags: Sequence[str] = (),
    **attempt: Any,
) -> UUID:
    """A flow run in that state with a task run at work, whose process is dead."""
    run = client.create_flow_run_from_deployment(UUID(house.unworked))
    client.update_flow_run(run.id, tags=list(tags))
    # One that never ran would be Cancelled, without a Cancelling, by the server itself.
    client.set_flow_run_state(run.id, RunningState(), force=True)
    client.set_flow_run_state(run.id, state, force=True)
    assert state_of(client, run.id).type == state.type
    task = client.create_task_run(a_task, run.id, dynamic_key="0", state=RunningState())
    assert not task.state.is_final()
    known = Attempt(
        str(run.id), 2**22 + 1, socket.gethostname(), api=server_digest(house.operated.api)
    )
    write_attempt(replace(known, **attempt))
    return run.id


@task
def a_task() -> None: ...


def state_of(client: SyncPrefectClient, run: UUID) -> State:
    state = client.read_flow_run(run).state
    assert state is not None
    return state


def test_the_watch_gives_each_dead_run_the_state_that_is_true(
    house: House, asked: SyncPrefectClient
) -> None:
    done = End("COMPLETED", "Completed", "All is done.")
    dead = left_behind(house, asked, RunningState())
    stopped = left_behind(house, asked, Cancelling())
    untold = left_behind(house, asked, RunningState(), end=done)
    called_dead = left_behind(house, asked, Crashed(message="exit status 1"), end=done)
    called_failed = left_behind(house, asked, Failed(message="ConnectError"), end=done)
    elsewhere = left_behind(house, asked, RunningState(), host="another-machine")
    other_server = left_behind(house, asked, RunningState(), api="http://127.0.0.1:9/api")
    Watch().look()
    assert state_of(asked, dead).is_crashed()
    assert "Nothing had been begun" in (state_of(asked, dead).message or "")
    assert state_of(asked, stopped).is_cancelled()
    assert state_of(asked, stopped).message == "Stopped. Nothing had been begun."
    for run in (untold, called_dead, called_failed):
        assert state_of(asked, run).is_completed()
        assert state_of(asked, run).message == done.message
    for run in (elsewhere, other_server):
        assert state_of(asked, run).is_running()
    for run in (dead, stopped, untold, called_dead, called_failed):
        parent = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        (one,) = asked.read_task_runs(flow_run_filter=parent)
        assert one.state is not None
        assert one.state.is_final()
        assert one.state.type == state_of(asked, run).type


def test_a_run_whose_process_died_before_it_began_is_scheduled_anew(
    house: House, asked: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the server has of it alone: there is no file."""
    monkeypatch.setattr(watch, "WORKER_TELLS_WITHIN_S", 0.0)  # there is none to wait for

    def submitted(tags: Sequence[str], *states: State) -> UUID:
        run = asked.create_flow_run_from_deployment(UUID(house.unworked))
        asked.update_flow_run(run.id, tags=list(tags))
        asked.update_flow_run_labels(run.id, {"prefect.worker.name": WORKER_NAME})
        for state in (Pending(), *states, Crashed(message="Process exited with status code: 1.")):
            asked.set_flow_run_state(run.id, state, force=True)
        return run.id

    died = submitted([RESTART])
    untagged, begun = submitted([]), submitted([RESTART], RunningState())
    Watch().look()  # or the one of the house, should this machine be that busy
    assert state_of(asked, died).is_scheduled()
    assert state_of(asked, died).message == "Started again after a crash. Nothing had been begun."
    for run in (untagged, begun):
        assert state_of(asked, run).is_crashed()


HOLDS = """
import sys, time
from filelock import FileLock

lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_run_that_no_worker_can_stop_is_stopped(
    house: House, asked: SyncPrefectClient, tmp_path: Path
) -> None:
    """A command with a server of the user's, or a flow whose worker has died."""
    run = left_behind(house, asked, Cancelling())
    held = tmp_path / "attempts" / f"{run}.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(held)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        attempt = read_attempt(str(run))
        assert attempt is not None
        write_attempt(replace(attempt, pid=process.pid))
        Watch().look()
        assert process.wait(10) == -signal.SIGTERM
    Watch().look()
    assert state_of(asked, run).is_cancelled()


def test_what_dies_again_and_again_without_getting_further_is_left_for_a_person(
    house: House, asked: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WORKER_TELLS_WITHIN_S", 0.0)  # there is none to wait for
    ledger = tmp_path / "runs" / "loop" / "ledger.jsonl"
    ledger.parent.mkdir(parents=True)
    run = left_behind(house, asked, RunningState(), [RESTART], runs=(str(ledger.parent),))
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)", "worker"]
    with subprocess.Popen(sleeps) as worker:
        # Its parent, which is called a worker, lives: so it died by itself.
        def dies(**how: Any) -> State:
            attempt = read_attempt(str(run))
            assert attempt is not None
            write_attempt(replace(attempt, settled=False, parent=worker.pid, **how))
            asked.set_flow_run_state(run, Crashed(), force=True)
            Watch().look()
            return state_of(asked, run)

        assert [dies().is_scheduled() for _ in range(2)] == [True, True]
        ledger.write_text("{}\n")  # a checkpoint
        assert [dies().is_scheduled() for _ in range(2)] == [True, True]
        assert dies(waits=True).is_scheduled()  # it waited for another run
        last = dies(waits=False)
        worker.kill()
    assert last.is_crashed()
    assert "3 times in a row without a new checkpoint" in (last.message or "")
    assert f"prefect flow-run retry {run}" in (last.message or "")


def test_one_run_at_a_time_uses_a_key(
    house: House, asked: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-not-a-real-one")
    config = RunConfig.model_validate({"preset": "geometry3k", "output_dir": tmp_path})
    has_it, lets_go = threading.Event(), threading.Event()

    def run() -> None:
        with its_turn(config), its_turn(config):  # a sweep, and a run of it
            has_it.set()
            lets_go.wait(60)

    def begin() -> threading.Thread:
        thread = threading.Thread(target=copy_context().run, args=(run,))
        thread.start()
        return thread

    first = begin()
    assert has_it.wait(60)
    (limit,) = (
        one for one in asked.read_global_concurrency_limits() if one.name.startswith("tinker-key-")
    )
    assert "tml" not in limit.name
    assert (limit.limit, limit.active_slots) == (1, 1)
    lets_go.set()
    first.join()
    assert asked.read_global_concurrency_limit_by_name(limit.name).active_slots == 0

    # Another process has the slot now.
    taken = asked.increment_concurrency_slots_with_lease(
        names=[limit.name], slots=1, mode="concurrency", lease_duration=60
    )
    has_it.clear()
    second = begin()
    assert not has_it.wait(3)
    asked.release_concurrency_slots_with_lease(taken.json()["lease_id"])
    assert has_it.wait(60)
    second.join()


def test_a_slot_is_given_back_to_a_server_that_was_started_anew(
    house: House, asked: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is taken for good, and all who have this key wait for ever."""
    monkeypatch.setenv("TINKER_API_KEY", "tml-another-one")
    config = RunConfig.model_validate({"preset": "geometry3k", "output_dir": tmp_path})
    before = {one.name for one in asked.read_global_concurrency_limits()}
    with its_turn(config):
        (limit,) = (one for one in asked.read_global_concurrency_limits() if one.name not in before)
        assert limit.active_slots == 1
        house.operated.kill("server")
        house.operated.start("server")
    assert asked.read_global_concurrency_limit_by_name(limit.name).active_slots == 0
    with its_turn(config):
        pass
