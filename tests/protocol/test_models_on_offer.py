"""A model that the server has under another name, or not: said by the real SDK's reply."""

from pathlib import Path

import pytest
from protocol_client import MODEL

from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.engine.launch import RunningEngine
from visual_r1.errors import ConfigError


def backend(engine: RunningEngine, tmp_path: Path, preset: str, **model: str) -> Backend:
    config = RunConfig.model_validate(
        {
            "preset": preset,
            "output_dir": tmp_path,
            "model": model,
            "backend": {"server": "remote", "base_url": engine.url},
        }
    )
    return Backend(config, {"TINKER_API_KEY": engine.api_key})


def test_before_anything_is_paid_for(engine: RunningEngine, tmp_path: Path) -> None:
    remote = backend(engine, tmp_path, "seed")
    with pytest.raises(ConfigError) as raised:
        remote.begin()
    assert str(raised.value) == (
        "The server does not offer the model 'Qwen/Qwen3-VL-30B-A3B-Instruct', which the hosted "
        "service retired on 12 June 2026: choose another --model.name; its successor is "
        f"Qwen/Qwen3.6-35B-A3B, which this server does not offer either; of those on offer these "
        f"take pictures: {MODEL}."
    )
    remote.close()


def test_an_unknown_suffix(engine: RunningEngine, tmp_path: Path) -> None:
    remote = backend(engine, tmp_path, "quickstart", name=f"{MODEL}:peft:9")
    with pytest.raises(ConfigError, match=f"with this suffix: choose --model.name {MODEL}"):
        remote.begin()
    remote.close()


def test_the_model_on_offer_trains_and_samples(engine: RunningEngine, tmp_path: Path) -> None:
    remote = backend(engine, tmp_path, "quickstart")
    remote.begin(trains=True)
    assert remote.context_length()
    remote.require_model(trains=True)
    remote.close()
