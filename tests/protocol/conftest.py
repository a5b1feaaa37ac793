"""A real engine process on a free port, and the real SDK as its client."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["TINKER_TELEMETRY"] = "0"

import tinker
from protocol_client import MODEL, RawClient

from visual_r1.engine.launch import RunningEngine, start_engine


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the shared engine."""
    return tmp_path_factory.mktemp("engine") / "home"


@pytest.fixture(scope="session")
def engine(home: Path) -> Iterator[RunningEngine]:
    """One engine for all tests that do not need their own."""
    with start_engine(home, MODEL, 1, home.with_name("engine.log"), device="cpu") as running:
        yield running


@pytest.fixture
def service(engine: RunningEngine) -> Iterator[tinker.ServiceClient]:
    """A client with a session of its own."""
    client = tinker.ServiceClient(base_url=engine.url, api_key=engine.api_key)
    yield client
    client.close("success").result(timeout=30)


@pytest.fixture
def rest(engine: RunningEngine) -> tinker.RestClient:
    """Listings and checkpoint management."""
    return tinker.RestClient(base_url=engine.url, api_key=engine.api_key)


@pytest.fixture
def trainer(service: tinker.ServiceClient) -> Callable[..., tinker.TrainingClient]:
    """Makes training clients of rank 4 with a fixed seed."""

    def make(**changes: object) -> tinker.TrainingClient:
        options: dict[str, object] = {"rank": 4, "seed": 7} | changes
        future = service.create_lora_training_client(MODEL, **options)  # type: ignore[arg-type]
        return future.result(timeout=60)

    return make


@pytest.fixture
def raw(engine: RunningEngine) -> Iterator[RawClient]:
    """The wire without the SDK."""
    with RawClient(engine.url, engine.api_key) as client:
        yield client
