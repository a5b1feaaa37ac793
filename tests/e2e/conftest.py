"""One engine, in this process, for all runs of a file through the library."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from trials.train_chunks import config
from visual_r1.backend import Backend, open_backend
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
