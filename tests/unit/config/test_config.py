"""RunConfig, presets and what makes a run the run it is."""

import math
from pathlib import Path
from types import NoneType
from typing import Annotated, get_args

import pytest
from pydantic import BaseModel, ValidationError

from visual_r1.config import (
    LATER,
    STORED,
    DataSection,
    RewardSection,
    RunConfig,
    Section,
    Weight,
    differing_keys,
    merged,
    preset_names,
)
from visual_r1.config.command_line import load_config
from visual_r1.config.overrides import with_overrides
from visual_r1.data.dataset import prepare
from visual_r1.errors import ConfigError, RunError
from visual_r1.models import model_path
from visual_r1.printing import CommandParser
from visual_r1.runs.named import find_run

# The settings of the scripts that this project grew from.
ORIGIN = {
    "model.name": "Qwen/Qwen3-VL-30B-A3B-Instruct",
    "model.lora_rank": 16,
    "train.batch_size": 4,
    "train.group_size": 4,
    "train.steps": 500,
    "train.learning_rate": 1e-6,
    "train.clip_epsilon": 0.2,
    "train.chunk_steps": 50,
    "sampling.temperature": 0.9,
    "sampling.max_new_tokens": 768,
    "reward.format": 0.5,
    "reward.accuracy": 1.0,
    "reward.visual_grounding": 0.1,
}


def value_at(config: RunConfig, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


@pytest.mark.parametrize("config", [RunConfig(), RunConfig(preset="seed")], ids=["default", "seed"])
def test_defaults_are_the_origins_table(config: RunConfig) -> None:
    assert {name: value_at(config, name) for name in ORIGIN} == ORIGIN
    assert not config.train.skip_without_contrast


def test_every_preset_loads_and_is_another_run() -> None:
    assert preset_names() == ["first_try", "geometry3k", "quickstart", "seed", "vision_sr1"]
    assert len({RunConfig(preset=name).digest() for name in preset_names()}) == 5


def test_quickstart_runs_on_the_embedded_engine_whatever_is_set() -> None:
    config = RunConfig(preset="quickstart")
    assert config.backend.server == "embedded"
    assert config.model.name == "visual-r1/tiny-geometry"
    assert (config.train.batch_size, config.train.group_size, config.train.steps) == (16, 8, 60)
    assert config.sampling.temperature == 1.0


def test_values_given_lie_over_the_preset() -> None:
    config = RunConfig.model_validate({"preset": "quickstart", "train": {"steps": 7}})
    assert (config.train.steps, config.train.batch_size) == (7, 16)


def test_no_section_has_more_than_eleven_fields_beside_its_weights() -> None:
    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            section = field.annotation
            if isinstance(section, type) and issubclass(section, BaseModel):
                fields = section.model_fields.values()
                weights = [
                    one for one in fields if any(isinstance(m, Weight) for m in one.metadata)
                ]
                assert len(fields) - len(weights) <= 11, name
                check(section)

    check(RunConfig)


def test_every_field_survives_its_own_json() -> None:
    config = RunConfig(preset="geometry3k")
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "same",
    [
        {"train": {"steps": 3}},
        {"train": {"resume_from_step": 5}},
        {"run": {"name": "mine"}},
        {"logging": {"wandb": False}},
        {"output_dir": "/elsewhere"},
        {"data": {"max_rejected_share": 0.9}},
        {"backend": {"base_url": "http://localhost:1"}},
    ],
)
def test_steps_logging_and_places_do_not_make_another_run(same: dict[str, object]) -> None:
    assert RunConfig.model_validate(same).digest() == RunConfig().digest()


@pytest.mark.parametrize(
    "other",
    [
        {"train": {"seed": 1}},
        {"train": {"learning_rate": 2e-6}},
        {"backend": {"threads": 1}},
        {"data": {"seed": 1}},
        {"data": {"columns": {"problem": "question"}}},
        {"reward": {"random": 1.0}},
    ],
)
def test_what_changes_results_makes_another_run(other: dict[str, object]) -> None:
    assert RunConfig.model_validate(other).digest() != RunConfig().digest()


class Grown(RunConfig):
    """The configuration of a version to come."""

    class Reward(RewardSection):
        brevity: Annotated[float, Weight(), LATER] = 0.0

    class Weather(Section):
        sunny: bool = True

    reward: Reward = Reward()
    weather: Annotated[Weather, LATER] = Weather()


def test_a_setting_that_came_later_makes_another_run_only_where_it_is_set() -> None:
    then = RunConfig(preset="quickstart")
    assert Grown(preset="quickstart").identity() == then.identity()
    assert Grown(preset="quickstart").run_name == then.run_name
    for given in ({"reward": {"brevity": 0.1}}, {"weather": {"sunny": False}}):
        assert Grown.model_validate({"preset": "quickstart", **given}).digest() != then.digest()
    assert "brevity" in Grown().model_dump()["reward"]


def test_a_setting_of_the_data_that_came_later_leaves_the_dataset_as_it_is(tmp_path: Path) -> None:
    class GrownData(DataSection):
        flip: Annotated[bool, LATER] = False

    small: dict[str, object] = {"source": "procedural", "train": 4, "validation": 1, "test": 1}
    then = prepare(DataSection.model_validate(small), tmp_path)
    again = prepare(GrownData.model_validate(small), tmp_path)
    assert (again.folder, again.digest) == (then.folder, then.digest)
    other = prepare(GrownData.model_validate(small | {"flip": True}), tmp_path)
    assert other.digest != then.digest


def test_run_name_is_preset_and_digest_unless_given() -> None:
    config = RunConfig(preset="quickstart")
    assert config.run_name == f"quickstart-{config.digest()}"
    assert RunConfig.model_validate({"run": {"name": "mine"}}).run_name == "mine"


def test_an_unknown_preset_names_those_there_are() -> None:
    listed = "no preset 'qickstart'; there are: first_try, geometry3k, quick"
    with pytest.raises(ConfigError, match=listed):
        RunConfig(preset="qickstart")


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="stepz"):
        RunConfig.model_validate({"train": {"stepz": 3}})


def test_drawing_for_contrast_needs_groups_to_be_skipped() -> None:
    with pytest.raises(ValidationError, match=r"needs train\.skip_without_contrast"):
        RunConfig.model_validate({"algorithm": {"dynamic_rounds": 2}})


@pytest.mark.parametrize("word", ["none", "None", "NULL", "null"])
def test_none_is_a_word_for_every_setting_that_can_be_without_a_value(word: str) -> None:
    def check(model: type[BaseModel]) -> int:
        asked = 0
        for name, field in model.model_fields.items():
            section = field.annotation
            if isinstance(section, type) and issubclass(section, BaseModel):
                asked += check(section)
            elif NoneType in get_args(section):
                assert getattr(model.model_validate({name: word}), name) is None, name
                asked += 1
        return asked

    assert check(RunConfig) > 20


def test_none_stays_a_name_where_something_must_be_named() -> None:
    config = RunConfig.model_validate({"algorithm": {"normalization": "none"}})
    assert config.algorithm.normalization == "none"
    named = RunConfig.model_validate({"logging": {"wandb_project": "None"}})
    assert named.logging.wandb_project == "None"


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, "inf", "1e999"])
def test_every_number_is_finite(number: float | str) -> None:
    def check(model: type[BaseModel]) -> int:
        asked = 0
        for name, field in model.model_fields.items():
            section = field.annotation
            if isinstance(section, type) and issubclass(section, BaseModel):
                asked += check(section)
            elif section is float or float in get_args(section):
                value = {"beta": number} if section == dict[str, float] else number
                with pytest.raises(ValidationError, match="finite number"):
                    model.model_validate({name: value})
                asked += 1
        return asked

    assert check(RunConfig) > 30


NO_REWARD = {"format": 0, "accuracy": 0, "visual_grounding": 0}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"algorithm": {"clip_higher": 0.3}, "train": {"loss": "cispo"}},
            r"algorithm\.clip_higher.*train\.loss is cispo: set train\.loss to ppo, or leave",
        ),
        (
            {"algorithm": {"minibatches": 17}},
            r"algorithm\.minibatches is 17, and a step has 16 .*train\.batch_size 4 x "
            r"train\.group_size 4\): lower it to 16",
        ),
        ({"reward": NO_REWARD}, r"Nothing can be learnt: .*such as reward\.accuracy 1"),
        ({"reward": NO_REWARD | {"custom_weight": 1}}, "Nothing can be learnt"),
        ({"reward": NO_REWARD | {"custom": "m:f", "custom_weight": 0}}, "Nothing can be learnt"),
        (
            {"reward": NO_REWARD, "second_pass": {"enabled": True, "reward": 0, "penalty": 0}},
            "Nothing can be learnt",
        ),
    ],
)
def test_what_makes_no_sense_together_is_refused_and_can_still_be_read(
    values: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        RunConfig.model_validate(values)
    # A run of an earlier commit, when nobody refused it.
    assert RunConfig.model_validate(values, context=STORED).digest() != RunConfig().digest()


@pytest.mark.parametrize(
    "values",
    [
        {"algorithm": {"clip_higher": 0.3}, "train": {"loss": "ppo"}},
        {"algorithm": {"minibatches": 16}},
        {"reward": NO_REWARD | {"random": 1}},
        {"reward": NO_REWARD | {"length": 0.5}},
        {"reward": NO_REWARD | {"custom": "mine:my_reward"}},
        {"reward": NO_REWARD, "second_pass": {"enabled": True}},
        {"reward": NO_REWARD, "algorithm": {"kl_coefficient": 0.1}},
    ],
)
def test_what_makes_sense_is_not_refused(values: dict[str, object]) -> None:
    assert RunConfig.model_validate(values) != RunConfig()


ONCE = "Qwen/Qwen3-VL-30B-A3B-Instruct"


def test_how_a_preset_thinks_is_a_trait_of_its_model() -> None:
    def thinks(**model: str) -> str:
        given = {"preset": "geometry3k", "model": model}
        return RunConfig.model_validate(given).model.thinking

    own = RunConfig(preset="geometry3k").model
    assert (own.name, thinks(name=own.name), thinks()) == ("Qwen/Qwen3.6-35B-A3B", "off", "off")
    assert thinks(name=f"{own.name}:peft:262144") == "off"
    assert thinks(name="Qwen/Qwen3.5-9B") == "default"
    assert thinks(name="Qwen/Qwen3.5-9B", thinking="off") == "off"
    assert thinks(thinking="on") == "on"
    assert load_config(["--preset", "geometry3k", "--model.name", ONCE]).model.thinking == "default"


def test_a_run_from_when_a_preset_named_another_model_is_the_run_that_it_was() -> None:
    """The digest is that of the preset before it had `model.name` and `model.thinking`."""
    named = RunConfig.model_validate({"preset": "geometry3k", "model": {"name": ONCE}})
    assert named.run_name == "geometry3k-5ee800ea"
    stored = named.model_dump(mode="json")
    del stored["model"]["thinking"]
    then = RunConfig.model_validate(stored, context=STORED)
    assert then.digest() == "5ee800ea"
    assert RunConfig.model_validate(then.model_dump(), context=STORED) == then
    assert RunConfig(preset="geometry3k").digest() != "5ee800ea"
    assert RunConfig(preset="seed").digest() == "49a4de6b"


def test_merged_goes_section_by_section() -> None:
    assert merged({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}}) == {
        "a": {"x": 1, "y": 3},
        "b": 1,
    }


def test_differing_keys_are_dotted_and_ordered() -> None:
    one = {"train": {"seed": 1, "loss": "ppo"}, "a": 1}
    other = {"train": {"seed": 2, "loss": "ppo"}, "b": 1}
    assert differing_keys(one, other) == ["a", "b", "train.seed"]


@pytest.mark.parametrize("preset", ["quickstart", "vision_sr1"])
def test_runs_from_when_numbers_stayed_by_default_are_known(preset: str) -> None:
    """Their `config.json` says so, and their ledger's digest was made without it."""
    now = RunConfig(preset=preset)
    stored = now.model_dump(mode="json")
    stored["second_pass"] |= {"named_by": 0, "moved_numbers": False}
    then = RunConfig.model_validate(stored, context=STORED)
    assert then.has_digest(now.digest())
    assert then.has_digest(now.older_digest())
    assert not then.second_pass.moved_numbers
    assert (then.identity() == now.identity()) is not now.second_pass.enabled


@pytest.mark.parametrize(
    "given",
    [
        {"controls": ["scan_only", "other_image", "scan_only"]},
        {"controls": "scan_only, other_image"},
        {"controls": ("scan_only", "other_image")},
    ],
)
def test_controls_are_a_list_or_commas_in_one_order(given: dict[str, object]) -> None:
    found = RunConfig.model_validate({"preset": "quickstart", "evaluation": given})
    assert found.evaluation.controls == ("other_image", "scan_only")
    flags = ["--preset", "quickstart", "--evaluation.controls", "scan_only,other_image"]
    assert load_config(flags).evaluation == found.evaluation
    # What is asked of the weights makes no other run, and stored it is read again.
    assert found.digest() == RunConfig(preset="quickstart").digest()
    assert RunConfig.model_validate(found.model_dump(mode="json"), context=STORED) == found


def test_of_a_control_that_there_is_not_the_others_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'sideways' is no control: there are blind, other_ima"):
        load_config(["--evaluation.controls", "blind,sideways"])


def test_the_image_is_blanked_by_either_setting() -> None:
    for given, blanked in (
        ({"blind": False}, False),
        ({"blind": False, "controls": ["blind"]}, True),
        ({}, True),
    ):
        found = RunConfig.model_validate({"preset": "quickstart", "evaluation": given})
        assert found.evaluation.asks_blind is blanked


def test_a_place_may_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In flags, files and overrides, which no shell has seen; a folder `./~` invites `rm -rf ~`."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    home = Path("/home/me")
    file = tmp_path / "mine.toml"
    file.write_text('output_dir = "~/vr"\nbackend.engine_home = "~/engine"\n')
    for config in (
        load_config(["--output-dir=~/vr", "--backend.engine_home", "~/engine"]),
        load_config(["--config", str(file)]),
        with_overrides("quickstart", {"output_dir": "~/vr", "backend.engine_home": "~/engine"}),
    ):
        assert (config.output_dir, config.backend.engine_home) == (home / "vr", home / "engine")
        # A name does not depend on places.
        assert config.run_name == RunConfig(preset="quickstart").run_name
        assert RunConfig.model_validate(config.model_dump()) == config
    (tmp_path / "vlm:large").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_path("~/vlm:large") == str(tmp_path / "vlm:large")
    literal = load_config(["--output-dir", "./~/vr"])
    assert RunConfig.model_validate(literal.model_dump()).output_dir == tmp_path / "~/vr"
    assert load_config(["--backend.engine_home", "none"]).backend.engine_home is None
    with pytest.raises(ConfigError, match=r"^output_dir = '~nobody9/x': there is no home of"):
        load_config(["--output-dir", "~nobody9/x"])
    parser = CommandParser()
    parser.add_output_dir()
    assert parser.parse_args(["--output-dir=~/vr"]).output_dir == tmp_path / "vr"
    with pytest.raises(SystemExit):
        parser.parse_args(["--output-dir=~nobody9/x"])
    assert "there is no home of ~nobody9" in capsys.readouterr().err
    with pytest.raises(RunError, match="no home of ~nobody9"):
        find_run("~nobody9/runs/mine")


def test_what_was_stored_with_a_tilde_lies_where_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"output_dir": "~/vr", "backend": {"engine_home": "~/engine"}}
    old = RunConfig.model_validate(values, context=STORED)
    again = RunConfig.model_validate(old.model_dump())
    assert again.output_dir == old.output_dir == tmp_path / "~/vr"
    assert again.backend.engine_home == tmp_path / "~/engine"
