"""Flags and TOML files to a RunConfig; one sentence for each mistake."""

from pathlib import Path

import pytest

from visual_r1.command_line import load_config
from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError


def test_no_flag_at_all_is_the_quickstart() -> None:
    assert load_config([]) == RunConfig(preset="quickstart")


def test_flags_beat_the_file_and_the_file_beats_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('preset = "geometry3k"\n[train]\nsteps = 9\nbatch_size = 3\n')
    config = load_config(["--config", str(file), "--train.steps", "5"])
    assert (config.preset, config.train.steps, config.train.batch_size) == ("geometry3k", 5, 3)
    assert config.train.group_size == 8  # the preset's


def test_the_preset_flag_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('preset = "geometry3k"\n')
    assert load_config([f"--config={file}", "--preset", "seed"]).preset == "seed"


def test_switches_and_the_output_folder() -> None:
    config = load_config(["--no-logging.wandb", "--output-dir", "/elsewhere"])
    assert not config.logging.wandb
    assert config.run_dir.parent == Path("/elsewhere/runs")
    assert load_config(["--output_dir", "/elsewhere"]).output_dir == Path("/elsewhere")


def test_settings_within_a_section_are_flags_too(tmp_path: Path) -> None:
    flags = ["--data.columns.problem", "question", "--data.splits.test=testmini"]
    data = load_config([*flags, "--data.show_choices"]).data
    assert (data.columns.problem, data.splits.test, data.show_choices) == (
        "question",
        "testmini",
        True,
    )
    file = tmp_path / "mine.toml"
    file.write_text('data.columns.problem = "question"\n[data.splits]\ntest = "testmini"\n')
    assert load_config(["--config", str(file), "--data.show_choices"]).data == data


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN", '{"steps": 1}')
    monkeypatch.setenv("PRESET", "seed")
    assert load_config([]) == RunConfig(preset="quickstart")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--train.stepz", "4"], r"no flag --train\.stepz\. Did you mean --train\.steps\?"),
        (["--train.steps=x"], r"train\.steps = 'x'.*integer"),
        (["--train.batch_size", "0"], r"train\.batch_size = '0'.*greater than or equal to 1"),
        (["--train.steps"], "expected one argument"),
        (["--data.colums.problem", "q"], r"Did you mean --data\.columns\.problem\?"),
        (["--preset", "foo"], "no preset 'foo'"),
        (["--config", "/nowhere.toml"], r"Cannot read the configuration /nowhere\.toml"),
        (["--config"], "needs the name of a TOML file"),
        (["stray"], "stray"),
    ],
)
def test_a_mistake_is_one_sentence(flags: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        load_config(flags)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[train\n", "not valid TOML"),
        ("[train]\nstepz = 3\n", r"no setting train\.stepz, did you mean train\.steps\?"),
        ('[train]\nsteps = "many"\n', r"train\.steps = 'many'"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_config(["--config", str(file)])


def test_help_shows_flags_and_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        load_config(["--help"], "flows/train_flow.py")
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    assert "--train.steps" in shown
    assert "Steps between two checkpoints" in shown
