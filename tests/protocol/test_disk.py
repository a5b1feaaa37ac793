"""The engine's disk: what expired while no engine ran, a budget, and a report."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tinker
from protocol_client import MODEL, datum
from tinker import types

from visual_r1.engine.launch import start_engine
from visual_r1.engine.store.home import HomeFolder
from visual_r1.engine.store.records import CheckpointPath, CheckpointRecord, checkpoint_path
from visual_r1.engine.store.store import Store
from visual_r1.engine.types import LoraSpec

RUN = "0123456789abcdef:train:0"
BUDGET = 3_000_000


def earlier(home: Path) -> tuple[CheckpointPath, CheckpointPath]:
    """What an engine left two hours ago: a permanent checkpoint, and one that lasted an hour."""
    paths = [checkpoint_path(RUN, "weights", name) for name in ("permanent", "brief")]
    then = datetime.now(UTC) - timedelta(hours=2)
    store = Store(home, clock=lambda: then)
    for path, lasts in zip(paths, (None, timedelta(hours=1)), strict=True):
        expires = None if lasts is None else then + lasts
        record = CheckpointRecord(path, MODEL, LoraSpec(4), True, then, expires, spared=True)
        store.write(record, lambda folder: (folder / "state").write_bytes(bytes(500_000)) and None)
    store.close()
    return paths[0], paths[1]


def test_checkpoints_end_and_the_disk_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    permanent, brief = earlier(home)
    monkeypatch.setenv("VISUAL_R1_ENGINE_MAX_DISK", str(BUDGET))
    with start_engine(home, MODEL, 1, tmp_path / "log", device="cpu") as engine:
        folder = HomeFolder(home)
        assert folder.checkpoint_folder(permanent).exists()
        assert not folder.checkpoint_folder(brief).exists()
        service = tinker.ServiceClient(base_url=engine.url, api_key=engine.api_key)
        rest = tinker.RestClient(base_url=engine.url, api_key=engine.api_key)
        client = service.create_lora_training_client(MODEL, rank=4, seed=1).result(timeout=60)
        with pytest.raises(tinker.RequestFailedError, match="time to live"):
            service.create_training_client_from_state(str(brief)).result(timeout=60)

        with pytest.raises(
            tinker.RequestFailedError, match="Set VISUAL_R1_ENGINE_MAX_DISK"
        ) as caught:
            for number in range(100):
                client.save_state(f"n{number}").result(timeout=60)
        assert caught.value.category is types.RequestErrorCategory.User
        assert str(home) in str(caught.value) and "no other run is known" in str(caught.value)
        listed = rest.list_user_checkpoints().result(timeout=60).checkpoints
        assert len(listed) >= 3 and listed[-1].tinker_path == str(permanent)
        assert not list(home.rglob("*.tmp")) and folder.used_bytes() <= BUDGET + 10_000

        # Training goes on, and what the sentence names makes room.
        client.forward_backward([datum()], "cross_entropy").result(timeout=60)
        rest.delete_checkpoint_from_tinker_path(str(permanent)).result(timeout=60)
        assert client.save_state("fits").result(timeout=60).path.endswith("/fits")
        command = [sys.executable, "-m", "visual_r1.engine", "--report", "--home", str(home)]
        report = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert client.model_id in report.stdout and str(home) in report.stdout
        service.close("success").result(timeout=60)
