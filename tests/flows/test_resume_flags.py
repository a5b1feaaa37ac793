"""`visual-r1 resume`: how a run is named, and flags that do not go together."""

from pathlib import Path

import pytest

from flows.resume import main
from visual_r1.runs.config_file import CONFIG_FILE


def test_a_proof_takes_no_number_of_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "runs" / "mine"), "--prove", "--steps", "8"]) == 1
    said = capsys.readouterr().err
    assert "--prove" in said
    assert "--steps" in said


def test_a_run_is_named_by_its_folder_or_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with it is said of the run that was meant."""
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / CONFIG_FILE).write_text("torn")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    for name in ("mine", "runs/mine", str(run)):
        assert main([name]) == 1
        said.append(capsys.readouterr().err.replace(str(run), "runs/mine").replace("\n", " "))
    assert len(set(said)) == 1
    assert "runs/mine/config.json" in said[0]
    assert main(["nine"]) == 1
    assert "did you mean mine?" in capsys.readouterr().err.replace("\n", " ")
