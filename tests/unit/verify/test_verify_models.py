"""The records of models: as they were written, of an older version, or none at all."""

import json
from pathlib import Path

import pytest

from visual_r1.exports.record import Export
from visual_r1.promotion.models import Models
from visual_r1.verify.command import main


@pytest.fixture
def record(tmp_path: Path) -> Path:
    run_dir = tmp_path / "runs" / "a"
    paths = ("tinker://a/sampler", "tinker://a/state")
    exported = Export(4, 4, True, "tiny", "adapter", *paths, (), "2026-05-01T10:00:00+00:00")
    models = Models(tmp_path, "geometry")
    models.promote(run_dir, exported, "exports/step-4", None, "person", "seen by eye")
    return models.path


def test_a_record_as_it_was_written_is_sound(record: Path) -> None:
    assert main([str(record.parent)]) == 0


def test_one_without_a_seal_is_unverified(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(record.read_text())
    del content["checksum"]
    record.write_text(json.dumps(content))
    assert main([str(record.parent)]) == 0
    assert "1 file unverified" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[]", "{}", "null", "7", '"text"', '{"name": "geometry"}'])
@pytest.mark.parametrize("place", ["geometry.json", "geometry/0001.json"])
def test_json_that_is_no_record_is_not_sound(
    record: Path, place: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = record.parent / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    assert main([str(record.parent)]) == 1
    said = capsys.readouterr().out
    assert said.splitlines()[0].endswith(place)
    assert "promote the model again" in said
    assert said.splitlines()[-1].startswith("not sound: 1 damaged")
