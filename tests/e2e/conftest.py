"""For runs through the library one engine a file; for commands a Prefect home that is ready."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from prefect_home import Give
from warm_command import WarmCommand

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
def warm(tmp_path_factory: pytest.TempPathFactory, give_home: Give) -> Iterator[WarmCommand]:
    """One process for the commands of all files that need no other environment.

    What they have of it is apart by their output folders.
    """
    with WarmCommand(give_home(tmp_path_factory.mktemp("warm"))) as command:
        yield command


@pytest.fixture
def used_before(tmp_path: Path, give_home: Give) -> Path:
    """An empty folder but for its Prefect home."""
    return give_home(tmp_path)
