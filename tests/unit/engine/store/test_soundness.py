"""Damage on the disk is found, said, and never used."""

import json
import random
import shutil
from io import BufferedReader
from pathlib import Path

import pytest
import torch
from test_lifetimes import as_an_older_version_wrote
from test_store import MODEL_ID, PATH, Clock, record

from visual_r1 import hashing, opening
from visual_r1.engine.store.home import MANIFEST, STATE_FILE
from visual_r1.engine.store.records import checkpoint_path
from visual_r1.engine.store.soundness import examine_home, tensor_fingerprints
from visual_r1.engine.store.store import CheckpointDamaged, CheckpointNotFound, Store
from visual_r1.engine.store.tensors import load_state, write_state
from visual_r1.errors import StorageError

SOUND = {
    "layer.lora_A.weight": torch.arange(12.0).view(3, 4),
    "adam.first_moment.layer.lora_A.weight": -torch.ones(3, 4),
    "adam.second_moment.layer.lora_A.weight": torch.ones(3, 4),
    "adam.steps": torch.tensor([3]),
}


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path / "home", Clock())
    store.write(record(Clock()), lambda folder: write_state(folder, SOUND))
    yield store
    store.close()


def state_of(store: Store) -> Path:
    return store.folder(PATH) / STATE_FILE


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def test_what_is_sound_is_read_and_has_no_findings(store: Store) -> None:
    found = load_state(store, PATH)
    assert all(torch.equal(found[name], values) for name, values in SOUND.items())
    assert [*examine_home(store.home.path)] == []
    assert len(tensor_fingerprints(store.home.path, str(PATH))) == 4


def test_every_flipped_bit_is_found_by_all_who_look(store: Store) -> None:
    file = state_of(store)
    sound = file.read_bytes()
    store.close()
    for bit in random.Random(1).sample(range(8 * len(sound)), 60):
        flip(file, bit)
        again = Store(store.home.path, Clock())
        with pytest.raises(CheckpointDamaged) as caught:
            load_state(again, PATH)
        assert str(file) in str(caught.value) and "was written" in str(caught.value)
        assert "load an earlier checkpoint" in str(caught.value)
        assert [one.file for one in examine_home(store.home.path)] == [file]
        with pytest.raises(StorageError, match="is damaged"):
            tensor_fingerprints(store.home.path, str(PATH))
        # From now on it is as good as gone, and says why.
        with pytest.raises(CheckpointDamaged):
            again.check(PATH)
        assert again.checkpoints() == []
        again.close()
        file.write_bytes(sound)


@pytest.mark.parametrize("how", ["flip", "cut", "longer", "missing", "swapped"])
def test_check_finds_damage_that_came_after_the_checkpoint_was_written(
    store: Store, how: str
) -> None:
    assert store.check(PATH)
    file = state_of(store)
    data = file.read_bytes()
    match how:
        case "flip":
            flip(file, 8 * (len(data) - 5))
        case "cut":
            file.write_bytes(data[:-1])
        case "longer":
            file.write_bytes(data + b"\0")
        case "missing":
            file.unlink()
        case _:
            other = checkpoint_path(MODEL_ID, "weights", "two")
            changed = SOUND | {"adam.steps": torch.tensor([4])}
            store.write(record(Clock(), other), lambda folder: write_state(folder, changed))
            shutil.copyfile(store.folder(other) / STATE_FILE, file)
    with pytest.raises(CheckpointDamaged, match=STATE_FILE):
        store.check(PATH)
    # Its name is free again, and what lies there can be deleted.
    store.delete(PATH)
    with pytest.raises(CheckpointNotFound) as caught:
        store.check(PATH)
    assert not isinstance(caught.value, CheckpointDamaged)


def test_what_was_written_or_checked_here_is_not_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    open_file = opening.open_file

    def noted(path: Path) -> BufferedReader:
        read.append(path)
        return open_file(path)

    for module in (opening, hashing):
        monkeypatch.setattr(module, "open_file", noted)
    assert store.check(PATH) and read == []
    store.close()
    again = Store(store.home.path, Clock())
    read.clear()
    assert again.check(PATH) and again.check(PATH)
    assert read == [state_of(store)]
    again.close()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"path": 3}', "\ufeff{}", "{}"])
def test_a_damaged_record_is_told_of_and_goes_no_further(
    store: Store, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = store.folder(PATH) / MANIFEST
    manifest.write_text(content)
    store.close()
    again = Store(store.home.path, Clock())
    assert str(manifest) in caplog.text
    with pytest.raises(CheckpointDamaged, match=MANIFEST):
        again.check(PATH)
    assert [one.file for one in examine_home(store.home.path)] == [manifest]
    again.write(record(Clock()), lambda folder: write_state(folder, SOUND))
    assert again.check(PATH)
    again.close()


BAD = {
    "NaN": {"layer.lora_A.weight": torch.full((3, 4), torch.nan)},
    "one infinite": {"layer.lora_A.weight": SOUND["layer.lora_A.weight"] / torch.zeros(3, 4)},
    "whole numbers": {"layer.lora_A.weight": torch.ones(3, 4, dtype=torch.int32)},
    "half": {"layer.lora_A.weight": torch.ones(3, 4, dtype=torch.float16)},
    "double": {"layer.lora_A.weight": torch.ones(3, 4, dtype=torch.float64)},
    "bfloat16": {"layer.lora_A.weight": torch.ones(3, 4, dtype=torch.bfloat16)},
    "int64 weights": {"layer.lora_A.weight": torch.ones(3, 4, dtype=torch.int64)},
    "no numbers": {"layer.lora_A.weight": torch.ones(0, 4)},
    "negative squares": {"adam.second_moment.layer.lora_A.weight": -torch.ones(3, 4)},
    "infinite moment": {"adam.first_moment.layer.lora_A.weight": torch.full((3, 4), torch.inf)},
    "negative steps": {"adam.steps": torch.tensor([-1])},
    "two counts": {"adam.steps": torch.tensor([1, 2])},
    "steps in floats": {"adam.steps": torch.tensor([1.0])},
}


@pytest.mark.parametrize("bad", BAD)
def test_an_old_state_goes_on_unverified_but_never_with_numbers_that_cannot_be(
    store: Store, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Records from before digests: the form of every tensor is what is left to check."""
    store.close()
    as_an_older_version_wrote(store)
    again = Store(store.home.path, Clock())
    assert load_state(again, again.check(PATH).path)
    assert "unverified" in caplog.text
    assert [one.verdict for one in examine_home(store.home.path)] == ["unverified"]
    again.close()

    write_state(store.folder(PATH), SOUND | BAD[bad])
    manifest = store.folder(PATH) / MANIFEST
    content = json.loads(manifest.read_text())
    content["files"] = {STATE_FILE: state_of(store).stat().st_size}
    manifest.write_text(json.dumps(content))
    for use in (lambda one: load_state(one, PATH), lambda one: one.check(PATH)):
        again = Store(store.home.path, Clock())
        with pytest.raises(CheckpointDamaged, match="holds"):
            use(again)
        again.close()
    assert [one.verdict for one in examine_home(store.home.path)] == ["damaged"]


def test_a_copy_of_something_damaged_is_not_made(store: Store) -> None:
    flip(state_of(store), 4000)
    copied = checkpoint_path("fedcba9876543210:train:0", "weights", "one")
    with pytest.raises(CheckpointDamaged):
        store.copy(PATH, record(Clock(), copied))
    assert not store.folder(copied).exists()


def test_finite_numbers_whose_sum_is_not_are_sound(store: Store) -> None:
    large = {"layer.lora_A.weight": torch.full((3, 4), 3e38)}
    path = checkpoint_path(MODEL_ID, "weights", "large")
    store.write(record(Clock(), path), lambda folder: write_state(folder, large))
    assert torch.equal(load_state(store, path)["layer.lora_A.weight"], torch.full((3, 4), 3e38))
