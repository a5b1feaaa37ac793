"""`prefect deployment run 'train/quickstart' --watch`, with a real server and a real worker."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from train_command import ROOT, SMALL, Folder, clean_environment

PREFECT = [sys.executable, "-m", "prefect"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def nested(flags: dict[str, object]) -> dict[str, object]:
    """`{"train.steps": 4}` as `{"train": {"steps": 4}}`."""
    values: dict[str, dict[str, object]] = {}
    for name, value in flags.items():
        section, key = name.split(".")
        values.setdefault(section, {})[key] = value
    return dict(values)


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Prefect server of our own; yields the environment that points at it."""
    port = free_port()
    env = clean_environment() | {
        "PWD": str(ROOT),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    start = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with running(start, env, tmp_path / "server.log") as process:
        while not is_healthy(env["PREFECT_API_URL"]):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.25)  # it must not end while we wait for it
        yield env


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


def test_deployed_scheduled_and_run_by_a_worker(server: dict[str, str], tmp_path: Path) -> None:
    prefect(server, "work-pool", "create", "visual-r1", "--type", "process")
    prefect(server, "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    schedules = prefect(server, "deployment", "schedule", "ls", "train/quickstart")
    assert "False" in schedules  # inactive until somebody switches it on

    small = nested(SMALL | {"train.steps": 2, "logging.wandb": False})
    config = {"preset": "quickstart", "output_dir": str(tmp_path), **small}
    environment = json.dumps({"PREFECT_LOCAL_STORAGE_PATH": str(tmp_path / "results")})
    with running(["worker", "start", "--pool", "visual-r1"], server, tmp_path / "worker.log"):
        prefect(
            server,
            *("deployment", "run", "train/quickstart", "--watch"),
            *("--params", json.dumps({"config": config})),
            *("--job-variable", f"env={environment}"),
        )
    folder = Folder(tmp_path)
    assert (folder.run / "report.html").is_file()
    assert [row["step"] for row in folder.rows("ledger.jsonl")] == [2]
    assert any((tmp_path / "results").iterdir())
