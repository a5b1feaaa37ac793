"""What is laid over a preset, and whole configurations: as people type them."""

from typing import Any

import pytest

from visual_r1.config import RunConfig, preset_names
from visual_r1.config.names import holds, schema_of, settings
from visual_r1.config.overrides import flat, whole, with_overrides
from visual_r1.config.page import settings_page
from visual_r1.config.presets import PRESETS_DIR
from visual_r1.errors import ConfigError
from visual_r1.opening import read_file

QUICKSTART = RunConfig(preset="quickstart")


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        ({}, {}),
        ({"train.steps": 6}, {"train.steps": 6}),
        ({"train": {"steps": 6}}, {"train.steps": 6}),
        ({"train": {"steps": 6}, "train.steps": 6}, {"train.steps": 6}),
        ({"train": {"steps": 6}, "train.seed": 3}, {"train.steps": 6, "train.seed": 3}),
        ({"data": {"columns.problem": "q"}}, {"data.columns.problem": "q"}),
        ({"data.columns": {"problem": "q"}}, {"data.columns.problem": "q"}),
        ({"validation.problems": None}, {"validation.problems": None}),
        ({"validation.problems": "none"}, {"validation.problems": None}),
        ({"preset": "quickstart"}, {}),
        ({"logging.wandb": "false"}, {"logging.wandb": False}),
        (
            {"train.loss": "dro", "algorithm.loss_config.beta": 0.1},
            {"train.loss": "dro", "algorithm.loss_config": {"beta": 0.1}},
        ),
        (
            {
                "algorithm.loss_config": {"clip_low_threshold": 0.1},
                "algorithm.loss_config.clip_high_threshold": 3.0,
            },
            {"algorithm.loss_config": {"clip_low_threshold": 0.1, "clip_high_threshold": 3.0}},
        ),
    ],
)
def test_overrides_change_what_they_name_alone(
    overrides: dict[str, Any], changes: dict[str, Any]
) -> None:
    made = flat(with_overrides("quickstart", overrides).model_dump(), "it")
    assert made == flat(QUICKSTART.model_dump(), "it") | changes


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"train.stepz": 6},
            r"no setting train.stepz, which overrides name. Did you mean train.st",
        ),
        ({"steps": 6}, r"Did you mean train.steps\?"),
        ({"--train-steps": 6}, r"Did you mean train.steps\?"),
        ({"seed": 6}, r"Did you mean data.seed, train.seed, evaluation.seed or validation.seed\?"),
        ({"zzz": 6}, "--help` lists them"),
        ({5: 6}, "no setting 5"),
        ({"train": 6}, "train is a section, and overrides give it the value 6"),
        ({"train": None}, "train is a section"),
        ({"data": {"columns": "q"}}, "data.columns is a section"),
        ({"train.steps.x": 6}, "train.steps is a setting and no section"),
        ({"train": {"steps": 6}, "train.steps": 7}, "give train.steps twice, 6 and 7"),
        ({"train.steps": "six"}, r"train.steps = 'six': input should be a valid integer"),
        ({"train.steps": "1e3"}, "write 1000"),
        ({"train.steps": None}, r"train.steps = None"),
        ({"train.steps": True}, "train.steps = true is no value for it: Steps of the whole run"),
        ({"train.steps": [6]}, "train.steps: input should be a valid integer"),
        ({"train.learning_rate": True}, "is no value for it"),
        ({"preset": "seed"}, "choose it by preset"),
        ({"run.name": "night-{dat}"}, r"\{dat\} is nothing that is filled in"),
        ({"train.more_steps": 5, "train.resume_from_step": 5}, "goes back"),
        ([], "overrides is \\[\\], and should be names with values"),
        ("train.steps=6", 'such as {"train.steps": 6}'),
    ],
)
def test_what_cannot_be_laid_over_is_a_sentence(overrides: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        with_overrides("quickstart", overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("preset", ["Quickstart", "quick", 5, ["seed"]])
def test_a_preset_that_is_none(preset: Any) -> None:
    with pytest.raises(ConfigError, match="quickstart"):
        with_overrides(preset, {})


def dumped(preset: str) -> dict[str, Any]:
    """What a form that is made of the model posts, filled with this preset."""
    return RunConfig(preset=preset).model_dump(mode="json")


@pytest.mark.parametrize("preset", preset_names())
def test_a_whole_configuration_is_its_run(preset: str) -> None:
    for flow in (preset, None):
        assert whole(dumped(preset), flow) == RunConfig(preset=preset)
    steps = {"preset": preset, "train": {"steps": 7}}
    assert whole(steps, preset) == with_overrides(preset, {"train.steps": 7})


def test_a_configuration_without_a_preset_is_refused_with_what_was_meant() -> None:
    with pytest.raises(ConfigError) as raised:
        whole({"train": {"steps": 6}}, "quickstart")
    said = str(raised.value)
    assert "config names no preset" in said
    assert 'data.source (quickstart "procedural", here "hiyouga/geometry3k")' in said
    assert "train.steps (quickstart 60, here 6)" in said
    assert said.endswith('give preset "quickstart" and overrides {"train.steps": 6}.')


def test_a_configuration_of_another_preset_than_the_flow_s_is_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        whole({"preset": "geometry3k", "train": {"steps": 6}}, "quickstart")
    said = str(raised.value)
    assert said.startswith("preset is quickstart, and config is of preset geometry3k: ")
    assert said.endswith('give preset "geometry3k" and overrides {"train.steps": 6}.')


@pytest.mark.parametrize("named", [name for name in preset_names() if name != "quickstart"])
def test_a_form_whose_preset_alone_was_changed_is_refused(named: str) -> None:
    """The values posted are still the other preset's: neither run would be what was chosen."""
    with pytest.raises(ConfigError) as raised:
        whole(dumped("quickstart") | {"preset": named}, named)
    said = str(raised.value)
    assert said.startswith(f"config says preset {named}, and its values are those of preset quick")
    assert f'give preset "{named}" and no overrides' in said


def test_a_stored_configuration_with_changes_of_its_own_is_taken() -> None:
    mine = with_overrides(
        "quickstart", {"train.steps": 9, "train.seed": 3, "run.name": "mine", "output_dir": "/x"}
    )
    assert whole(mine.model_dump(mode="json"), "quickstart") == mine


def test_every_setting_has_a_description_and_every_number_a_bound_where_it_has_one() -> None:
    for name, field in settings().items():
        assert field.description, name
        assert field.description.endswith((".", "problem", "answer", "image", "choices", "id"))
        assert not set(field.description) & set("<>"), "the older UI takes it for HTML"
    unbounded = {
        name
        for name in settings()
        for kind in schema_of(name)
        if kind.get("type") in ("integer", "number")
        and not {"minimum", "exclusiveMinimum"} & kind.keys()
    }
    # Seeds, and weights of rewards, which may be negative.
    assert all(
        name.endswith("seed") or name.startswith(("reward.", "second_pass.")) for name in unbounded
    )
    assert not holds("train.steps", bool)


def test_the_page_of_settings_is_up_to_date() -> None:
    page = read_file(PRESETS_DIR.parents[1] / "docs" / "settings.md").decode()
    assert page == settings_page() + "\n", "python -m visual_r1.config.page > docs/settings.md"
