"""Sessions of the backend: one at a time, each with an end, also where nobody answers any more."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tinker
from protocol_client import MODEL

from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.engine.launch import RunningEngine, start_engine


def backend_of(engine: RunningEngine) -> Backend:
    config = RunConfig.model_validate({"model": {"name": MODEL}, "backend": {"server": "remote"}})
    return Backend(config, {"TINKER_BASE_URL": engine.url, "TINKER_API_KEY": engine.api_key})


@pytest.fixture
def backend(engine: RunningEngine) -> Iterator[Backend]:
    opened = backend_of(engine)
    yield opened
    opened.close()


def is_over(engine: RunningEngine, session: str) -> bool:
    """Whether the server takes no more heartbeats of the session."""
    answer = httpx.post(
        f"{engine.url}/api/v1/session_heartbeat",
        json={"session_id": session},
        headers={"X-API-Key": engine.api_key},
    )
    assert answer.status_code in (200, 410), answer.text
    return answer.status_code == 410


def test_our_engine_says_that_it_samples_and_trains_in_turns(backend: Backend) -> None:
    assert backend.in_turns


def test_a_session_that_is_replaced_ends(engine: RunningEngine, backend: Backend) -> None:
    first = backend.connect().holder.get_session_id()
    second = backend.connect().holder.get_session_id()
    assert not is_over(engine, second)
    backend.disconnect()
    assert is_over(engine, first)
    assert is_over(engine, second)


def test_a_sampler_belongs_to_the_session_in_use(engine: RunningEngine, backend: Backend) -> None:
    training = backend.connect().create_lora_training_client(MODEL, rank=4).result(timeout=60)
    session = backend.service.holder.get_session_id()
    drawn = backend.sampler(None).sample(
        tinker.ModelInput.from_ints([5, 6]), 1, tinker.SamplingParams(max_tokens=1)
    )
    assert drawn.result(timeout=60).sequences
    assert backend.service.holder.get_session_id() == session
    assert training.save_state("still-there").result(timeout=60).path
    backend.close()
    assert is_over(engine, session)


def test_a_session_is_told_whether_its_block_failed(
    engine: RunningEngine, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    close = tinker.ServiceClient.close

    def heard(client: tinker.ServiceClient, status: Any) -> Any:
        told.append(status)
        return close(client, status)

    monkeypatch.setattr(tinker.ServiceClient, "close", heard)
    with backend.session() as service:
        first = service.holder.get_session_id()
    with pytest.raises(KeyError), backend.session() as service:
        second = service.holder.get_session_id()
        raise KeyError
    assert told == ["success", "errored"]
    assert is_over(engine, first)
    assert is_over(engine, second)


def test_a_server_that_hangs_or_died_is_left_quickly(tmp_path: Path) -> None:
    with start_engine(tmp_path / "home", MODEL, 1, tmp_path / "log", device="cpu") as engine:
        backend = backend_of(engine)
        assert backend.connect().holder
        engine.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        backend.disconnect("errored")
        assert time.monotonic() - began < 20  # the SDK alone would take five minutes
        engine.process.kill()
    # tests/conftest.py sees to it that no heartbeat goes on.
