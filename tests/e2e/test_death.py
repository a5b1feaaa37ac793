"""What becomes of runs whose flow, worker or server dies, with a real server, worker and watch."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prefect_home import Give
from train_command import SMALL

from trials.operated import Operated

FIELDS = SMALL | {"train.steps": 4, "logging.wandb": False, "validation.every": 0}


class Run(NamedTuple):
    """A flow run, and the folder of its run."""

    id: str
    folder: Path

    def ledger(self) -> int:
        path = self.folder / "ledger.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    @property
    def adapter(self) -> bytes:
        return (self.folder / "export/adapter/adapter_model.safetensors").read_bytes()


class House(NamedTuple):
    """What is operated, and its one deployment."""

    operated: Operated
    deployment: str
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
        yield House(operated, operated.deploy("flows/train_flow.py:train", "small"), folder)


def test_killed_mid_chunk_it_goes_on_by_itself_and_another_run_waits_for_the_home(
    house: House,
) -> None:
    """The second run is the first's control: it was not killed, and has the same bits."""
    operated = house.operated
    first = house.train("first")
    operated.until(lambda: first.ledger() == 1, "the first chunk of two is saved")
    process = operated.flow_process(first.id)
    assert process is not None
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
    assert ("train_chunk 0", "Cached") in tasks  # found done by the second attempt
    assert not operated.open_runs()
    assert first.adapter == second.adapter


def test_cancelled_it_says_what_is_kept_and_a_retry_goes_on(house: House) -> None:
    """Meanwhile the record of a chunk was damaged, and the newest checkpoint has gone."""
    operated = house.operated
    run = house.train("cancelled", train__steps=6)
    operated.until(lambda: run.ledger() == 2, "two chunks are saved")
    operated.set_state(run.id, "CANCELLING")
    assert operated.until_state(run.id, "CANCELLED") < 10
    assert operated.flow_process(run.id) is None or not is_training(run, operated)
    kept = "Kept: cancelled up to step 4"
    assert kept in operated.state(run.id)["message"]
    # Prefect's worker says something else later, which is mended.
    operated.until(lambda: len(cancelled(operated, run)) == 3, "worker and watch have spoken")
    assert kept in operated.state(run.id)["message"]

    rows = [json.loads(line) for line in (run.folder / "ledger.jsonl").read_text().splitlines()]
    for record in (house.folder / "results").glob("train_chunk*"):
        record.write_bytes(record.read_bytes()[:-20])
    session, _, rest = rows[1]["state_path"].removeprefix("tinker://").partition(":train:")
    number, _, name = rest.partition("/")
    home = house.folder / ".visual-r1" / "engine"
    shutil.rmtree(home / "sessions" / session / f"train-{number}" / name)

    operated.set_state(run.id, "SCHEDULED")
    operated.until_state(run.id, "COMPLETED")
    assert not operated.open_runs()
    assert run.ledger() == 3


def cancelled(operated: Operated, run: Run) -> list[str]:
    return [message for kind, message in operated.states(run.id) if kind == "CANCELLED"]


def is_training(run: Run, operated: Operated) -> bool:
    before = (run.folder / "metrics.jsonl").stat().st_size
    operated.until(lambda: operated.flow_process(run.id) is None, "its process has ended", 20)
    return (run.folder / "metrics.jsonl").stat().st_size > before


def test_worker_and_server_die_and_the_run_ends_all_the_same(house: House) -> None:
    """What it prints goes nowhere, and whom it tells is away: its files are what counts."""
    operated = house.operated
    run = house.train("alone")
    operated.until(lambda: run.ledger() == 1, "the first chunk is saved")
    process = operated.flow_process(run.id)
    assert process is not None
    operated.kill("worker", "server")
    operated.until(lambda: (run.folder / "summary.json").exists(), "the run is finished")
    operated.until(lambda: not process.is_running(), "its process has given up to tell")
    operated.start("server", "worker")
    operated.until_state(run.id, "COMPLETED")
    assert [kind for kind, _ in operated.states(run.id)].count("SCHEDULED") <= 1  # not done twice
    operated.until(lambda: not operated.open_runs(), "no task run is a ghost", 30)
