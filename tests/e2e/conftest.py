"""For runs through the library one engine a file; for commands a Prefect home that is ready."""

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from prefect_home import Give, prefect_home

from trials.train_chunks import config
from visual_r1.backend.backend import Backend, open_backend
from visual_r1.data.dataset import Dataset, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def backend(folder: Path) -> Generator[Backend]:
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TINKER_")}
    os.environ["TINKER_TELEMETRY"] = "0"
    with open_backend(config(folder)) as opened:
        yield opened
    del os.environ["TINKER_TELEMETRY"]
    os.environ.update(kept)


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return prepare(config(folder).data, folder)


@pytest.fixture(scope="session")
def give_home(tmp_path_factory: pytest.TempPathFactory) -> Give:
    """Gives a folder the Prefect home of a run that was there before; returns the folder."""
    home = prefect_home(tmp_path_factory)

    def give(folder: Path) -> Path:
        shutil.copytree(home, folder / ".visual-r1" / "prefect")
        return folder

    return give


@pytest.fixture
def used_before(tmp_path: Path, give_home: Give) -> Path:
    """An empty folder but for its Prefect home."""
    return give_home(tmp_path)
