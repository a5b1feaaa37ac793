"""A Prefect home whose database is there already: making one takes half a minute of a test."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from trials.programs import ROOT, clean_environment

START_ONCE = """
from tasks.environment import settle_prefect

settle_prefect()

from tasks.default_server import start_temporary_server

start_temporary_server()
"""

Give = Callable[[Path], Path]


def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home that a temporary server of ours has left, one for all workers of pytest-xdist."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    home = shared / "prefect-home"
    with FileLock(shared / "prefect-home.lock"):
        if not home.exists():
            made = tmp_path_factory.mktemp("prefect")
            subprocess.run(
                [sys.executable, "-c", START_ONCE],
                cwd=made,
                env=clean_environment() | {"PYTHONPATH": str(ROOT)},
                check=True,
            )
            shutil.copytree(made / ".visual-r1" / "prefect", home)
    return home
