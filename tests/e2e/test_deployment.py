"""`prefect deployment run 'train/quickstart' --watch` and the schedule, with a real server."""

import json
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
    """The server with the deployment of `deployments/prefect.yaml` and its work pool."""
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


def test_deployed_and_run_by_a_worker(deployed: dict[str, str], tmp_path: Path) -> None:
    small = SMALL | {"train.steps": 2, "logging.wandb": False, "output_dir": str(tmp_path)}
    environment = json.dumps({"PREFECT_LOCAL_STORAGE_PATH": str(tmp_path / "results")})
    with running(["worker", "start", "--pool", "visual-r1"], deployed, tmp_path / "worker.log"):
        watched = prefect(
            deployed,
            *("deployment", "run", "train/quickstart", "--watch"),
            *("--params", json.dumps({"overrides": small})),
            *("--job-variable", f"env={environment}"),
        )
    folder = Folder(tmp_path)
    assert (folder.run / "report.html").is_file()
    assert [row["step"] for row in folder.rows("ledger.jsonl")] == [2]
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


def test_a_schedule_that_is_switched_on_makes_runs(deployed: dict[str, str]) -> None:
    """The command and the toggle in the UI succeed even where the scheduler cannot make a run."""
    name = "train/quickstart"
    listed = prefect(deployed, "deployment", "schedule", "ls", name, "--output", "json")
    (schedule,) = json.loads(listed)
    assert not schedule["active"]  # until somebody switches it on
    assert not upcoming(deployed)

    prefect(deployed, "deployment", "schedule", "resume", name, schedule["id"])
    deadline = time.monotonic() + 60
    while not (runs := upcoming(deployed)):
        assert time.monotonic() < deadline, "the server made no run; its log says why"
        time.sleep(0.25)
    assert {run["expected_start_time"][11:19] for run in runs} == {"03:00:00"}


def asked(env: dict[str, str], what: str, **filters: Any) -> list[dict[str, Any]]:
    """What the server has of a kind, such as `flow_runs`."""
    answer = httpx.post(f"{env['PREFECT_API_URL']}/{what}/filter", json=filters, timeout=30)
    return answer.raise_for_status().json()


def upcoming(env: dict[str, str]) -> list[dict[str, Any]]:
    """The runs that the server itself has put on its list."""
    scheduled = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    return [run for run in asked(env, "flow_runs", **scheduled) if run["auto_scheduled"]]
