"""A checkpoint by the name that a user gives: best, final, or its step."""

from dataclasses import replace
from pathlib import Path

import pytest
from validated import checkpoint, row

from visual_r1.errors import RunError
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.validations import Validations, named_checkpoint


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for step, accuracy in ((4, 0.5), (8, 0.75), (12, 0.25)):
        Ledger(tmp_path).append(checkpoint(step))
        Validations(tmp_path).record(row(step, accuracy))
    return tmp_path


@pytest.mark.parametrize(("name", "step"), [("best", 8), ("final", 12), ("4", 4)])
def test_each_name_is_a_checkpoint(run_dir: Path, name: str, step: int) -> None:
    assert named_checkpoint(run_dir, name) == checkpoint(step)


def test_a_step_that_is_not_there_lists_those_that_are(run_dir: Path) -> None:
    with pytest.raises(RunError, match=r"no checkpoint '7' .* best, final, .* 4, 8, 12"):
        named_checkpoint(run_dir, "7")


def test_without_validation_none_is_the_best(run_dir: Path) -> None:
    Validations(run_dir).path.unlink()
    with pytest.raises(RunError, match=r"none is the best.*--validation\.every 1"):
        named_checkpoint(run_dir, "best")
    assert named_checkpoint(run_dir, "final").step == 12


def test_the_best_is_among_the_checkpoints_that_are_left(run_dir: Path) -> None:
    Validations(run_dir).record(replace(row(12, 0.9), sampler_path="tinker://another"))
    Ledger(run_dir).drop({8})
    assert named_checkpoint(run_dir, "best") == checkpoint(4)


def test_a_run_that_has_not_begun_has_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint yet"):
        named_checkpoint(tmp_path, "final")
