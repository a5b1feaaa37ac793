"""Prefect's temporary server: one that cannot start is said to, and none outlives its process."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
from tasks.environment import settle_prefect
settle_prefect()
from prefect.server.api.server import SubprocessASGIServer
from tasks.temporary_server import start_temporary_server
from visual_r1.errors import ConfigError
try:
    start_temporary_server()
except ConfigError as error:
    print("refused:", error)
else:
    print(SubprocessASGIServer().server_process.pid, flush=True)
    input()
"""


@pytest.fixture
def started(tmp_path: Path) -> "subprocess.Popen[str]":
    """A process that starts the server in the home of `tmp_path`, and says how that went."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def damaged_home(tmp_path: Path) -> Path:
    home = tmp_path / ".visual-r1" / "prefect"
    home.mkdir(parents=True)
    (home / "prefect.db").write_text("no database at all")
    return home


def test_a_server_that_cannot_start_is_one_sentence(
    damaged_home: Path, started: "subprocess.Popen[str]"
) -> None:
    output, _ = started.communicate(timeout=110)  # Prefect alone tries for 120 s
    assert "refused: Prefect's temporary server ends as soon as it is started" in output
    assert str(damaged_home) in output
    assert started.returncode == 0


def test_a_killed_process_leaves_no_server(started: "subprocess.Popen[str]") -> None:
    assert started.stdout is not None
    server = psutil.Process(int(started.stdout.readline()))
    assert "uvicorn" in server.cmdline()
    started.kill()
    started.communicate()
    server.wait(timeout=60)
