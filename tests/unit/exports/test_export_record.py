"""What counts as a complete export; exporting itself is tested on the engine (tests/e2e)."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from visual_r1.errors import BackendError
from visual_r1.exports.download import require_adapter
from visual_r1.exports.record import adapter_folder, read_export

LORA = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "tiny"}


def write_adapter(folder: Path, config: object = LORA, name: str = "q.lora_A.weight") -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({name: np.zeros((4, 8), np.float32)}, folder / "adapter_model.safetensors")


def write_export(run_dir: Path) -> dict[str, Any]:
    adapter = run_dir / "export" / "adapter"
    write_adapter(adapter)
    record: dict[str, Any] = {
        "step": 12,
        "updates": 9,
        "trained": True,
        "base_model": "tiny",
        "adapter": "adapter",
        "sampler_path": "tinker://m:train:0/sampler_weights/step-000012",
        "state_path": "tinker://m:train:0/weights/step-000012",
        "files": [
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in sorted(adapter.iterdir())
        ],
        "created_at": "2026-05-01T10:00:00+00:00",
    }
    (run_dir / "export" / "export.json").write_text(json.dumps(record))
    return record


def test_a_complete_export_is_recognized(tmp_path: Path) -> None:
    record = write_export(tmp_path)
    there = read_export(tmp_path)
    assert there is not None
    assert adapter_folder(tmp_path) == tmp_path / "export" / "adapter"
    assert (there.step, there.trained) == (12, True)
    assert there.sampler_path == record["sampler_path"]
    assert [one.name for one in there.files] == ["adapter_config.json", "adapter_model.safetensors"]


def test_an_export_whose_weights_were_cut_or_changed_is_none(tmp_path: Path) -> None:
    write_export(tmp_path)
    weights = tmp_path / "export" / "adapter" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-1], bytes([*whole[:-1], whole[-1] ^ 1])):
        weights.write_bytes(damaged)
        assert read_export(tmp_path) is None
    weights.unlink()
    assert read_export(tmp_path) is None
    weights.write_bytes(whole)
    assert read_export(tmp_path) is not None


def test_what_a_newer_version_adds_to_the_record_is_kept_out(tmp_path: Path) -> None:
    record = write_export(tmp_path)
    there = read_export(tmp_path)
    files = [one | {"later": 1} for one in record["files"]]
    newer = record | {"files": files, "later": [1]}
    (tmp_path / "export" / "export.json").write_text(json.dumps(newer))
    assert read_export(tmp_path) == there


@pytest.mark.parametrize("text", ["{", "{}", '{"files": [{"size": 1}]}', '{"files": []}'])
def test_a_damaged_record_is_no_export(tmp_path: Path, text: str) -> None:
    assert read_export(tmp_path) is None
    write_export(tmp_path)
    (tmp_path / "export" / "export.json").write_text(text)
    assert read_export(tmp_path) is None


@pytest.mark.parametrize(
    ("config", "name"), [({"peft_type": "IA3"}, "q.lora_A.weight"), (LORA, "q.weight"), ([], "x")]
)
def test_what_is_not_a_lora_is_refused(tmp_path: Path, config: object, name: str) -> None:
    write_adapter(tmp_path / "adapter", config, name)
    with pytest.raises(BackendError, match="not a LoRA"):
        require_adapter(tmp_path / "adapter")


def test_weights_that_broke_off_are_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter")
    require_adapter(tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(BackendError, match="damaged"):
        require_adapter(tmp_path / "adapter")
