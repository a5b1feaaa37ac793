"""An evaluation that is killed goes on where it was, and ends with the same predictions."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trials.evaluating import PROGRAM, config_in, evaluated
from trials.programs import ROOT, clean_environment
from visual_r1.backend.backend import Backend, open_backend
from visual_r1.evaluation.answers import ANSWERS_NAME
from visual_r1.evaluation.metrics import REPORT_NAME
from visual_r1.evaluation.predictions import read_predictions

PROBLEMS = 6
KILLED_AFTER = 9  # answers, of about 34


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def killed(work: Path) -> Path:
    """What is left of an evaluation that was killed, by a real SIGKILL, in the middle."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), str(work), "--problems", str(PROBLEMS)],
        env=clean_environment() | {"PYTHONPATH": str(ROOT), "TINKER_TELEMETRY": "0"},
    ) as process:
        answers = work / "evaluation" / ANSWERS_NAME
        while not answers.exists() or len(answers.read_bytes().splitlines()) < KILLED_AFTER:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)  # there is no event of another process's file
        process.kill()
    return work / "evaluation"


@pytest.fixture
def backend(work: Path, killed: Path) -> Iterator[Backend]:
    assert killed.exists()
    # The engine of the killed one has ended by itself, or is waited for.
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TINKER_")}
    with open_backend(config_in(work, PROBLEMS)) as opened:
        yield opened
    os.environ.update(kept)


def test_it_goes_on_where_it_was_with_the_same_predictions(
    work: Path, killed: Path, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    assert not (killed / REPORT_NAME).exists()
    there = [json.loads(line) for line in (killed / ANSWERS_NAME).read_text().splitlines()]
    assert len(there) >= KILLED_AFTER
    config, sampler = config_in(work, PROBLEMS), backend.sampler(None)
    whole = evaluated(sampler, backend.check, config, work / "whole")
    went_on = evaluated(sampler, backend.check, config, killed)
    assert "goes on where it was" in caplog.text
    assert read_predictions(killed) == read_predictions(work / "whole")
    # What was paid over both attempts is what the undisturbed one took: no answer was paid twice.
    assert went_on == whole
    assert went_on.controls is not None
    assert set(went_on.controls.by_name) == {"blind", "other_image", "scan_only"}
    assert sorted(path.name for path in killed.iterdir()) == ["predictions.parquet", REPORT_NAME]
