"""`prefect deployment run 'train/quickstart' --watch` and the schedule, with a real server."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect_home import Give
from train_command import ROOT, SMALL, Folder, clean_environment

PREFECT = [sys.executable, "-m", "prefect"]
KEY = "tml-a-key-that-nobody-asked-for"
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running(
    arguments: list[str], env: dict[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A Prefect process for the block; what it printed is in `log`."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [*PREFECT, *arguments], env=env, cwd=ROOT, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                # On a busy machine Prefect's worker can hear the signal and stay: its own affair.
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, give_home: Give) -> Iterator[dict[str, str]]:
    """A Prefect server of our own; yields the environment that points at it."""
    folder = give_home(tmp_path_factory.mktemp("server"))
    port = free_port()
    env = clean_environment() | {
        "PWD": str(ROOT),
        "PREFECT_HOME": str(folder / ".visual-r1" / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",  # in place of a minute
        "DO_NOT_TRACK": "1",
    }
    start = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with running(start, env, folder / "server.log") as process:
        while not is_healthy(env["PREFECT_API_URL"]):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.25)  # it must not end while we wait for it
        yield env


@pytest.fixture(scope="module")
def deployed(server: dict[str, str]) -> dict[str, str]:
    """The server with the deployments of `deployments/prefect.yaml` and their work pool."""
    prefect(server, "work-pool", "create", "visual-r1", "--type", "process")
    prefect(server, "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    return server


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def prefect(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [*PREFECT, *arguments],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # a worker that takes no run would be watched for ever
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def worker(deployed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A worker of the pool; yields its log."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    # A key in its environment, which no run may take for a wish to spend money.
    env = deployed | {"TINKER_API_KEY": KEY}
    with running(["worker", "start", "--pool", "visual-r1"], env, log):
        yield log


def api(env: dict[str, str], method: str, path: str, body: object = None) -> Any:
    """What the server answers; on a busy machine it asks for patience, as of every client."""
    deadline = time.monotonic() + 120
    while True:
        answer = httpx.request(method, f"{env['PREFECT_API_URL']}{path}", json=body, timeout=60)
        if answer.status_code != 503 or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def ended(env: dict[str, str], run: str) -> dict[str, Any]:
    """The flow run of this id, when it has ended."""
    deadline = time.monotonic() + 300
    while (found := api(env, "GET", f"/flow_runs/{run}"))["state"]["type"] not in ENDS:
        assert time.monotonic() < deadline, found["state"]
        time.sleep(0.5)
    return found


def logs_of(env: dict[str, str], run: str) -> str:
    wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
    return "\n".join(row["message"] for row in api(env, "POST", "/logs/filter", wanted))


def deployment_id(env: dict[str, str], name: str) -> str:
    return api(env, "GET", f"/deployments/name/{name}")["id"]


@pytest.mark.usefixtures("worker")
def test_deployed_and_run_by_a_worker(deployed: dict[str, str], tmp_path: Path) -> None:
    """One setting by its short name, the others by overrides; a key alone changes no server."""
    small = SMALL | {"logging.wandb": False, "output_dir": str(tmp_path)}
    del small["train.steps"], small["run.name"]
    environment = json.dumps({"PREFECT_LOCAL_STORAGE_PATH": str(tmp_path / "results")})
    watched = prefect(
        deployed,
        *("deployment", "run", "train/nightly", "--watch"),
        *("--param", "run_name=small", "--param", "more_steps=2"),
        *("--param", f"overrides={json.dumps(small)}"),
        *("--job-variable", f"env={environment}"),
    )
    folder = Folder(tmp_path)
    assert (folder.run / "report.html").is_file()
    [row] = folder.rows("ledger.jsonl")
    assert (row["step"], row["backend"]) == (2, "embedded")
    assert any((tmp_path / "results").iterdir())

    # What a person sees of it: the verdict where they watched, and on the page of the run.
    found = json.loads((folder.run / "summary.json").read_text())
    verdict = f"{100 * found['baseline']:.1f} → {100 * found['final']:.1f}% of 24 problems: "
    assert verdict in " ".join(watched.split())
    [run] = asked(deployed, "flow_runs", flow_runs={"name": {"any_": ["small"]}})
    assert run["state"]["message"].startswith(verdict)
    assert {"preset:quickstart", "model:tiny-geometry", "data:procedural"} <= set(run["tags"])
    mine = {"flow_run_id": {"any_": [run["id"]]}}
    kinds = [one["type"] for one in asked(deployed, "artifacts", artifacts=mine)]
    assert sorted(kinds) == ["markdown", "progress", "table"]
    logs = asked(deployed, "logs", logs=mine)
    steps = [one["message"] for one in logs if one["message"].startswith("step ")]
    assert len(steps) == 2
    assert not [one for one in logs if one["level"] > 20]


def as_a_form_posts_it(**fields: object) -> dict[str, object]:
    """What Prefect's UI posts: every field, null where it is empty, and JSON as a text."""
    written = {
        name: {"__prefect_kind": "json", "value": json.dumps(value)}
        for name, value in fields.items()
        if isinstance(value, dict)
    }
    empty = {"data": None, "config": {"__prefect_kind": "json", "value": "{}"}}
    return {**empty, **fields, **written}


@pytest.mark.usefixtures("worker")
def test_an_override_gives_the_run_it_says_by_command_form_and_schedule(
    deployed: dict[str, str], tmp_path: Path
) -> None:
    """Three datasets that differ in one value, prepared at once."""

    def overrides(train: int) -> dict[str, object]:
        few = {"data.validation": 2, "data.test": 2, "output_dir": str(tmp_path / str(train))}
        return few | {"data.train": train}

    dataset = deployment_id(deployed, "prepare/dataset")
    command = prefect(
        deployed,
        *("deployment", "run", "prepare/dataset"),
        *("--param", f"overrides={json.dumps(overrides(5))}"),
    )
    by_command = re.findall(r"UUID: ([-0-9a-f]{36})", command)[0]
    posted = as_a_form_posts_it(preset="quickstart", overrides=overrides(6))
    by_form = api(
        deployed,
        "POST",
        f"/deployments/{dataset}/create_flow_run",
        {"parameters": posted, "enforce_parameter_schema": True, "state": {"type": "SCHEDULED"}},
    )["id"]
    soon = {"schedule": {"interval": 3600.0}, "active": True}
    soon |= {"parameters": {"overrides": overrides(7)}}
    [schedule] = api(deployed, "POST", f"/deployments/{dataset}/schedules", [soon])
    deadline = time.monotonic() + 60
    while not (runs := upcoming(deployed, dataset)):
        assert time.monotonic() < deadline, "the server made no run of the schedule"
        time.sleep(0.25)
    first = min(runs, key=lambda run: run["expected_start_time"])["id"]
    now = {"state": {"type": "SCHEDULED", "state_details": {}}, "force": True}
    api(deployed, "POST", f"/flow_runs/{first}/set_state", now)
    for run, train in ((by_command, 5), (by_form, 6), (first, 7)):
        assert ended(deployed, run)["state"]["type"] == "COMPLETED", logs_of(deployed, run)
        [manifest] = (tmp_path / str(train) / "data").glob("*/manifest.json")
        assert json.loads(manifest.read_text())["counts"]["train"] == train
    api(deployed, "DELETE", f"/deployments/{dataset}/schedules/{schedule['id']}")


@pytest.mark.usefixtures("worker")
def test_a_mistake_ends_a_run_with_its_sentence_and_no_traceback(
    deployed: dict[str, str], worker: Path, tmp_path: Path
) -> None:
    given = {
        "no setting train.stepz": ("quickstart", {"overrides": {"train.stepz": 6}}),
        "config names no preset": ("quickstart", {"config": {"train": {"steps": 6}}}),
        "needs a Tinker server": ("geometry3k", {"overrides": {"output_dir": str(tmp_path)}}),
    }
    runs = {
        words: api(
            deployed,
            "POST",
            f"/deployments/{deployment_id(deployed, f'train/{name}')}/create_flow_run",
            {"parameters": parameters, "state": {"type": "SCHEDULED"}},
        )["id"]
        for words, (name, parameters) in given.items()
    }
    for words, run in runs.items():
        state = ended(deployed, run)["state"]
        assert state["type"] == "FAILED"
        assert words in state["message"]
        deadline = time.monotonic() + 60  # logs are sent behind the state
        while words not in (logs := logs_of(deployed, run)):
            assert time.monotonic() < deadline, logs
            time.sleep(0.5)
        # Prefect's own last line names the state, and so its message.
        said = [line for line in logs.splitlines() if not line.startswith("Finished in state")]
        assert "\n".join(said).count(words) == 1, logs
        assert "Traceback" not in logs
    assert "Traceback" not in worker.read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_that_is_switched_on_makes_runs(deployed: dict[str, str]) -> None:
    """The command and the toggle in the UI succeed even where the scheduler cannot make a run."""
    name = "train/quickstart"
    listed = prefect(deployed, "deployment", "schedule", "ls", name, "--output", "json")
    (schedule,) = json.loads(listed)
    assert not schedule["active"]  # until somebody switches it on
    quickstart = deployment_id(deployed, name)
    assert not upcoming(deployed, quickstart)

    prefect(deployed, "deployment", "schedule", "resume", name, schedule["id"])
    deadline = time.monotonic() + 60
    while not (runs := upcoming(deployed, quickstart)):
        assert time.monotonic() < deadline, "the server made no run; its log says why"
        time.sleep(0.25)
    assert {run["expected_start_time"][11:19] for run in runs} == {"03:00:00"}


def asked(env: dict[str, str], what: str, **filters: Any) -> list[dict[str, Any]]:
    """What the server has of a kind, such as `flow_runs`."""
    return api(env, "POST", f"/{what}/filter", filters)


def upcoming(env: dict[str, str], deployment: str) -> list[dict[str, Any]]:
    """The runs of a deployment that the server itself has put on its list."""
    scheduled = {
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "deployment_id": {"any_": [deployment]},
    }
    return [run for run in asked(env, "flow_runs", flow_runs=scheduled) if run["auto_scheduled"]]
