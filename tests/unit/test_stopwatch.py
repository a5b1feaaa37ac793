import json
from pathlib import Path

import pytest

from visual_r1.stopwatch import Stopwatch


def test_it_counts_on_from_what_was_recorded(tmp_path: Path) -> None:
    (tmp_path / "wall.json").write_text('{"seconds": 100.5}')
    seconds = Stopwatch(tmp_path).lap()
    assert seconds >= 100.5
    assert json.loads((tmp_path / "wall.json").read_text())["seconds"] == round(seconds, 3)


@pytest.mark.parametrize("damaged", ['{"seconds": 1', "[]", "{}", '{"seconds": "x"}', "\0"])
def test_a_damaged_record_is_counted_anew_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: str
) -> None:
    (tmp_path / "wall.json").write_text(damaged)
    assert Stopwatch(tmp_path).lap() < 60
    assert "is damaged" in caplog.text
    assert "counted anew" in caplog.text
    assert json.loads((tmp_path / "wall.json").read_text())["seconds"] >= 0


def test_a_record_that_has_gone_is_missed_where_a_checkpoint_was_reached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Stopwatch(tmp_path).lap() < 60
    assert caplog.text == ""
    (tmp_path / "wall.json").unlink()
    (tmp_path / "ledger.jsonl").touch()
    assert Stopwatch(tmp_path).lap() < 60
    assert "wall.json has gone; the wall time is counted anew" in caplog.text
