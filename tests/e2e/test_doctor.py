"""`visual-r1 doctor` on the real engine."""

import re
from pathlib import Path

import pytest

from flows.console import main

SMALL = [
    *("--data.train", "64", "--data.validation", "4", "--data.test", "8"),
    *("--train.batch_size", "4", "--train.steps", "10"),
]
PRICES = ["--prices.prefill", "1", "--prices.sample", "2", "--prices.train", "3"]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)
    monkeypatch.setenv("TINKER_TELEMETRY", "0")


def test_a_healthy_run_is_measured_by_one_real_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["doctor", "--output-dir", str(tmp_path), *SMALL, *PRICES])
    said = " ".join(capsys.readouterr().out.split())
    assert status == 0, said
    assert "one real step of 4 problems x 8" in said
    assert "offers visual-r1/tiny-geometry" in said
    assert "trained on" in said
    assert "the embedded engine costs nothing" in said
    assert "time: not known" not in said
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "data").exists()


def test_what_is_wrong_is_found_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [
        *("--output-dir", str(tmp_path), "--preset", "geometry3k"),
        *("--data.source", "procedural", "--model.name", "visual-r1/tiny-geometry"),
    ]
    assert main(["doctor", *flags, "--backend.server", "remote", *SMALL, *PRICES]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "TINKER_API_KEY is not set" in said
    assert re.search(r"in all at most \d+\.\d\d", said)
    assert main(["doctor", *flags, "--train.stepz", "3"]) == 2
    assert "Did you mean --train.steps?" in capsys.readouterr().err
    assert main(["doctor", *flags, "--prompt.template", "missing", "--no-measure"]) == 2
    assert "missing" in capsys.readouterr().out


def test_a_cold_start_has_no_groups_and_no_step_of_sampling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output-dir", str(tmp_path), "--sft.responses", "meta.solution", *SMALL, *PRICES]
    assert main(["doctor", *flags]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "trained on" in said
    for word in ("contrast", "groups of", "one real step"):
        assert word not in said
    status = main(["doctor", "--output-dir", str(tmp_path), "--sft.responses", "response"])
    assert status == 2
    assert "--sft.responses meta.solution" in capsys.readouterr().err
