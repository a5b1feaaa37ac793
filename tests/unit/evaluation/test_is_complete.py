"""When an evaluation that is there is the one that is wanted."""

from dataclasses import replace
from pathlib import Path

from made_up import conditions, predictions, problems, write_evaluation

from visual_r1.config import RunConfig
from visual_r1.evaluation.conditions import is_complete
from visual_r1.evaluation.predictions import PREDICTIONS_NAME

ASKED = problems(8)


def test_it_is_whole_and_of_the_same_weights_conditions_and_problems(tmp_path: Path) -> None:
    write_evaluation(tmp_path, ASKED, predictions(ASKED, 0.5, seed=0))
    config, wanted = RunConfig(preset="quickstart"), conditions()
    few = RunConfig.model_validate({"preset": "quickstart", "evaluation": {"problems": 4}})
    assert is_complete(tmp_path, config, wanted, 8)
    assert not is_complete(tmp_path, config, wanted, 9)
    assert not is_complete(tmp_path, few, wanted, 8)
    assert not is_complete(tmp_path, config, replace(wanted, sampler_path="tinker://other"), 8)
    assert not is_complete(tmp_path, config, replace(wanted, k=4), 8)
    # The same answers under a newer grader need not be asked for again.
    assert is_complete(tmp_path, config, replace(wanted, grader_version="99"), 8)
    # Controls that are there beyond those wanted do no harm; the other way round they are missing.
    assert not is_complete(tmp_path, config, replace(wanted, control_passes=("other_image",)), 8)
    assert not is_complete(tmp_path, config, replace(wanted, split="train"), 8)
    (tmp_path / PREDICTIONS_NAME).unlink()
    assert not is_complete(tmp_path, config, wanted, 8)


def test_controls_that_are_there_do_no_harm(tmp_path: Path) -> None:
    config, wanted = RunConfig(preset="quickstart"), conditions()
    asked = {"control_passes": ("other_image", "scan_only"), "reader": "0123"}
    write_evaluation(tmp_path, ASKED, predictions(ASKED, 0.5, seed=0), **asked)
    assert is_complete(tmp_path, config, wanted, 8)
    assert is_complete(tmp_path, config, replace(wanted, control_passes=("other_image",)), 8)
    assert is_complete(tmp_path, config, replace(wanted, **asked), 8)  # type: ignore[arg-type]
    other = {"control_passes": ("scan_only",), "reader": "4567"}
    assert not is_complete(tmp_path, config, replace(wanted, **other), 8)  # type: ignore[arg-type]
