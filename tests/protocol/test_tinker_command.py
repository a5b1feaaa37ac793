"""The SDK's own command, `tinker`, against the engine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import tinker
from click.testing import CliRunner, Result
from protocol_client import MODEL, datum
from tinker import types
from tinker.cli.__main__ import main_cli

from visual_r1.engine.launch import RunningEngine

Trainer = Callable[..., tinker.TrainingClient]


@pytest.fixture
def command(engine: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `tinker ...` as the welcome of `visual-r1 engine` says."""
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    monkeypatch.setenv("TINKER_API_KEY", engine.api_key)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main_cli, ["--format", "json", *arguments])

    return run


def read(result: Result) -> Any:
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def test_runs_and_checkpoints(command: Callable[..., Result], trainer: Trainer) -> None:
    client = trainer(user_metadata={"purpose": "cli"})
    paths = [client.save_state(name).result(timeout=60).path for name in ("a", "b")]
    sampler = client.save_weights_for_sampler("c").result(timeout=60).path
    assert [model["model_name"] for model in read(command("model", "list"))["models"]] == [MODEL]
    runs = read(command("run", "list", "--limit", "1"))["runs"]
    assert runs[0]["training_run_id"] == client.model_id
    assert read(command("run", "info", client.model_id))["lora_rank"] == 4
    listed = read(command("checkpoint", "list", "--run-id", client.model_id))["checkpoints"]
    assert [one["tinker_path"] for one in listed] == [sampler, *paths[::-1]]
    assert len(read(command("checkpoint", "list", "--limit", "2"))["checkpoints"]) == 2

    def info() -> dict[str, Any]:
        return read(command("checkpoint", "info", paths[0]))

    for arguments, key, before, after in (
        (("publish", paths[0]), "public", False, True),
        (("unpublish", paths[0]), "public", True, False),
    ):
        assert info()[key] is before
        assert command("checkpoint", *arguments).exit_code == 0
        assert info()[key] is after
    assert command("checkpoint", "set-ttl", paths[0], "--ttl", "3600").exit_code == 0
    assert info()["expires_at"] is not None
    assert command("checkpoint", "set-ttl", paths[0], "--remove").exit_code == 0
    assert info()["expires_at"] is None
    deleted = read(command("checkpoint", "delete", "--yes", *paths[:1]))
    assert deleted == {"deleted_count": 1, "failed": []}
    of_run = command("checkpoint", "delete", "--yes", "--run-id", client.model_id)
    assert read(of_run)["deleted_count"] == 2


def test_downloads(command: Callable[..., Result], tmp_path: Path, trainer: Trainer) -> None:
    """A training state through a temporary export, which is the same adapter, and is removed."""
    client = trainer()
    client.forward_backward([datum()], "cross_entropy")
    client.optim_step(types.AdamParams(learning_rate=1e-2)).result(timeout=60)
    adapters = []
    for path in (
        client.save_weights_external("adapter").result(timeout=60).path,
        client.save_state("state").result(timeout=60).path,
    ):
        read(command("checkpoint", "download", path, "--output", str(tmp_path)))
        folder = tmp_path / path.removeprefix("tinker://").replace("/", "_")
        assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
        adapters.append(safetensors.numpy.load_file(folder / "adapter_model.safetensors"))
    assert adapters[0].keys() == adapters[1].keys()
    assert all((adapters[0][name] == adapters[1][name]).all() for name in adapters[0])
    listed = read(command("checkpoint", "list", "--limit", "0"))["checkpoints"]
    assert not [one for one in listed if one["tinker_path"].endswith("/download")]


def test_storage_and_what_there_is_not(command: Callable[..., Result], trainer: Trainer) -> None:
    trainer().save_state("stored").result(timeout=60)
    storage = read(command("billing", "checkpoint-storage"))
    assert any(item["size_bytes"] > 0 for item in storage["data"])
    for arguments in (
        ("billing", "usage", "--starting-on", "2026-07-13", "--ending-before", "2026-07-14"),
        ("run", "info", "none"),
        ("checkpoint", "info", "tinker://none/weights/none"),
    ):
        result = command(*arguments)
        assert result.exit_code != 0 and result.exception is not None
    none = command("run", "info", "none").exception
    assert "no training run" in str(getattr(none, "details", none))
