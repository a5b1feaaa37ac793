"""`visual-r1 resume`: flags that do not go together."""

from pathlib import Path

import pytest

from flows.resume import main


def test_a_proof_takes_no_number_of_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "runs" / "mine"), "--prove", "--steps", "8"]) == 1
    said = capsys.readouterr().err
    assert "--prove" in said
    assert "--steps" in said
