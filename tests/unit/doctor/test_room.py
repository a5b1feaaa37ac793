"""The engine's disk: what a run will need there, against what its limit and the disk leave."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from visual_r1.config import RunConfig
from visual_r1.doctor.checks import checkpoint_room
from visual_r1.doctor.estimates import Room, needed_bytes, room_for
from visual_r1.doctor.examination import examine
from visual_r1.engine.store.records import CheckpointRecord, checkpoint_path
from visual_r1.engine.store.store import Store
from visual_r1.engine.types import LoraSpec
from visual_r1.models import TINY_GEOMETRY
from visual_r1.runs.ledger import Ledger, LedgerRow

ADAPTER = 823_344
"""Bytes of a saved adapter of rank 16 on the shipped model, and of its training state."""
STATE = 2_472_808
LIMIT = "VISUAL_R1_ENGINE_MAX_DISK"


def config(folder: Path, steps: int = 4, **backend: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": str(folder),
            "train": {"steps": steps, "chunk_steps": 1},
            "validation": {"every": 0},
            "backend": backend,
        }
    )


def fill(home: Path, size: int, ttl: timedelta | None = None, age: timedelta = timedelta()) -> None:
    """An engine that ran before, and a checkpoint that it left."""
    then = datetime.now(UTC) - age
    store = Store(home, clock=lambda: then)
    record = CheckpointRecord(
        checkpoint_path(f"{size:016x}:train:0", "weights", "one"),
        TINY_GEOMETRY,
        LoraSpec(16),
        True,
        then,
        None if ttl is None else then + ttl,
    )
    store.write(record, lambda folder: (folder / "state").write_bytes(bytes(size)) and None)
    store.close()


@pytest.mark.parametrize(("steps", "checkpoints"), [(1, 1), (4, 4), (40, 40)])
def test_what_a_run_needs_is_what_its_checkpoints_take(
    tmp_path: Path, steps: int, checkpoints: int
) -> None:
    needed = needed_bytes(config(tmp_path, steps))
    assert needed == pytest.approx(checkpoints * (STATE + ADAPTER) + ADAPTER, rel=0.02)


def test_what_a_run_deletes_itself_is_not_needed(tmp_path: Path) -> None:
    """Two are kept, and a third is there while it is saved."""
    needed = needed_bytes(config(tmp_path, 40, keep_checkpoints=2))
    assert needed == pytest.approx(3 * (STATE + ADAPTER) + ADAPTER, rel=0.02)


def test_what_is_done_is_not_needed_again(tmp_path: Path) -> None:
    mine = config(tmp_path)
    mine.run_dir.mkdir(parents=True)
    for step in (1, 2, 3, 4):
        row = LedgerRow(
            step=step, state_path="tinker://a:train:0/weights/s", sampler_path="", expires_at=None,
            config_digest="", dataset_digest="", backend="embedded",
            created_at="2026-01-01T00:00:00+00:00", updates=step,
        )  # fmt: skip
        Ledger(mine.run_dir).append(row)
        left = (4 - step) * (STATE + ADAPTER) + (ADAPTER if step < 4 else 0)
        assert needed_bytes(mine) == pytest.approx(left, rel=0.02)


def test_a_model_that_is_not_here_has_no_size(tmp_path: Path) -> None:
    mine = config(tmp_path)
    away = mine.model_copy(update={"model": mine.model.model_copy(update={"name": "no/such"})})
    room = room_for(away, {LIMIT: "1MB"})
    assert room.needed is None
    found = checkpoint_room(away, room)
    assert found is not None
    assert found.severity == "note"
    assert checkpoint_room(away, room_for(away, {})) is None


def test_the_limit_is_held_against_what_is_there_and_what_will_be(tmp_path: Path) -> None:
    mine = config(tmp_path)
    home = mine.state_dir / "engine"
    fill(home, 32_000_000)
    fill(home, 5_000_000, ttl=timedelta(hours=1), age=timedelta(hours=2))  # goes when one starts
    severities = {}
    for limit in ("1MB", "40MB", "47MB", ""):
        found = checkpoint_room(mine, room_for(mine, {LIMIT: limit}))
        assert found is not None
        severities[limit] = found.severity
    assert severities == {"1MB": "error", "40MB": "error", "47MB": "ok", "": "ok"}
    found = checkpoint_room(mine, room_for(mine, {LIMIT: "40MB"}))
    assert found is not None
    assert "32.0 MB in use" in found.says
    assert f"{LIMIT} to more than 46." in found.advice
    assert "--backend.keep_checkpoints 2" in found.advice


def test_a_disk_that_is_too_small_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    room = Room(tmp_path / "not" / "there", used=0, limit=None, needed=2**21)
    found = checkpoint_room(config(tmp_path), room)
    assert found is not None
    assert found.severity == "error"
    assert "1.0 MB are free" in found.says


@pytest.mark.parametrize(("limit", "words"), [("1MB", "checkpoints add"), ("much", "not a size")])
def test_the_examination_looks_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, words: str
) -> None:
    monkeypatch.setenv(LIMIT, limit)
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:9")
    mine = config(tmp_path, server="embedded")
    # The prompt is none, so that no engine is started.
    wrong = mine.model_copy(update={"prompt": mine.prompt.model_copy(update={"template": "no"})})
    found = [one for one in examine(wrong, measure=False).findings if one.subject.endswith("disk")]
    assert [one.severity for one in found if words in one.says] == ["error"]
    hosted = wrong.model_copy(
        update={"backend": wrong.backend.model_copy(update={"server": "remote"})}
    )
    said = [one.says for one in examine(hosted, measure=False).findings]
    assert not [one for one in said if words in one]
