"""A run by its folder or name, and what may be another in its configuration."""

from pathlib import Path
from typing import Any

import pytest

from flows.by_run import config_of
from tasks.runs import of_run
from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError, RunError
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.named import find_run


@pytest.fixture
def there(tmp_path: Path) -> RunConfig:
    given = {"preset": "quickstart", "output_dir": tmp_path, "train": {"seed": 5}}
    config = RunConfig.model_validate(given)
    with open_run_folder(config):
        return config


def test_a_folder_is_as_good_as_a_name(there: RunConfig) -> None:
    assert find_run(str(there.run_dir)) == there.run_dir
    assert find_run(there.run_name, there.output_dir) == there.run_dir


def test_a_name_that_is_not_there_gets_the_nearest(there: RunConfig) -> None:
    with pytest.raises(RunError, match=f"did you mean {there.run_name}?"):
        find_run(there.run_name[:-1] + "x", there.output_dir)
    with pytest.raises(RunError, match="there is none in"):
        find_run("quickstart", there.output_dir / "elsewhere")


@pytest.mark.parametrize("way", ["command", "flow"])
def test_its_own_configuration_holds_and_what_is_asked_may_be_another(
    there: RunConfig, way: str
) -> None:
    def given(**overrides: Any) -> RunConfig:
        if way == "flow":
            found = of_run(str(there.run_dir), overrides=overrides)
            assert found is not None
            return found
        flags = [part for name, value in overrides.items() for part in (f"--{name}", str(value))]
        return config_of(str(there.run_dir), flags)

    assert given().train.seed == 5
    changed = given(**{"evaluation.samples": 3, "backend.threads": 1})
    assert (changed.evaluation.samples, changed.train.seed) == (3, 5)
    assert (changed.run_dir, changed.identity()) == (there.run_dir, there.identity())
    with pytest.raises(RunError, match=r"train\.learning_rate cannot be another for"):
        given(**{"train.learning_rate": 0.5})
    with pytest.raises(ConfigError, match=r"evaluation\.sampels"):
        given(**{"evaluation.sampels": 3})


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["evaluation.samples"], "should be names with values"),
        ({"evaluation.samples": True}, "evaluation.samples = true is no value for it"),
        ({"evaluation": {"samples": 2}, "evaluation.samples": 3}, "give evaluation.samples twice"),
        ({"evaluation": 3}, "evaluation is a section"),
    ],
)
def test_what_a_form_may_hold_is_read_as_over_a_preset(
    there: RunConfig, overrides: Any, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        of_run(str(there.run_dir), overrides=overrides)


def test_a_preset_beside_a_run_is_refused(there: RunConfig) -> None:
    with pytest.raises(ConfigError, match="leave preset and config out"):
        of_run(str(there.run_dir), preset="seed")
    assert of_run("", preset="seed") is None


def test_a_run_by_its_name_in_another_output_folder(
    there: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of_run(there.run_name, overrides={"output_dir": str(there.output_dir)})
    assert found is not None
    assert found.run_dir == there.run_dir
    flags = ["--output-dir", str(there.output_dir), "--evaluation.samples", "2"]
    assert config_of(there.run_name, flags).run_dir == there.run_dir
    monkeypatch.chdir(there.output_dir)
    assert config_of(there.run_name, []).train.seed == 5
