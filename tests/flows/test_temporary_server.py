"""Prefect's temporary server: one that cannot start is said to."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
from tasks.environment import settle_prefect
settle_prefect()
from tasks.temporary_server import start_temporary_server
from visual_r1.errors import ConfigError
try:
    start_temporary_server()
except ConfigError as error:
    print("refused:", error)
"""


def test_a_server_that_cannot_start_is_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / ".visual-r1" / "prefect"
    home.mkdir(parents=True)
    (home / "prefect.db").write_text("no database at all")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,  # Prefect alone tries for 120 s
        check=True,
    )
    assert "refused: Prefect's temporary server ends as soon as it is started" in done.stdout
    assert str(home) in done.stdout
