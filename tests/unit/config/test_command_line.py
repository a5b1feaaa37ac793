"""Flags and TOML files to a RunConfig; one sentence for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from visual_r1.config import RunConfig, preset_names
from visual_r1.config.command_line import load_config
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
        (["--train.steps"], r"^--train\.steps needs a value after it\.$"),
        (["--data.colums.problem", "q"], r"Did you mean --data\.columns\.problem\?"),
        (["--preset", "foo"], "no preset 'foo'"),
        (["--config", "/nowhere.toml"], r"Cannot read the configuration /nowhere\.toml"),
        (["--config"], "needs the name of a TOML file"),
        (["stray"], "stray"),
        (["--algorithm.loss_config", "beta"], r"takes NAME=VALUE, such as .*beta=0\.1\."),
        (["--train.learning_rate", "inf"], r"^train\.learning_rate = 'inf': .*finite number\.$"),
        (
            ["--optimizer.schedule", "linear"],
            r"^The linear schedule needs optimizer\.schedule_steps, the step at which it ends\.$",
        ),
        (
            ["--algorithm.dynamic_rounds", "2", "--no-train.skip_without_contrast"],
            r"^algorithm\.dynamic_rounds draws .* needs train\.skip_without_contrast\.$",
        ),
        (["--algorithm.clip_higher", "0.3"], r"^algorithm\.clip_higher is ppo's upper clip"),
    ],
)
def test_a_mistake_is_one_sentence(flags: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        load_config(flags)
    assert not set("\n{}") & set(str(raised.value))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[train\n", "not valid TOML"),
        ("[train]\nstepz = 3\n", r"no setting train\.stepz, did you mean train\.steps\?"),
        ('[train]\nsteps = "many"\n', r"train\.steps = 'many'"),
        ("[train]\nsteps = {a = 1}\n", r"^train\.steps: input should be a valid integer\.$"),
        ("train = 3\n", r"^train is a section: its settings go beneath \[train\]\.$"),
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


def test_none_is_a_value_in_flags_and_in_a_file(tmp_path: Path) -> None:
    flags = ["--limits.max_kl", "none", "--validation.problems=NULL"]
    config = load_config([*flags, "--data.columns.family", "none"])
    assert config.limits.max_kl is None
    assert config.validation.problems is None
    assert config.data.columns.family is None
    file = tmp_path / "mine.toml"
    file.write_text('limits.max_kl = "none"\nvalidation.problems = "none"\n')
    assert load_config(["--config", str(file)]) == config


def test_help_shows_what_the_command_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*flags: str) -> str:
        with pytest.raises(SystemExit):
            load_config([*flags, "--help"])
        return " ".join(capsys.readouterr().out.split())

    quickstart, geometry3k = RunConfig(preset="quickstart"), RunConfig(preset="geometry3k")
    for help_text, config in ((shown(), quickstart), (shown("--preset=geometry3k"), geometry3k)):
        assert f"beneath the other values. (default: {config.preset})" in help_text
        assert (
            f"--train.steps int Steps of the whole run. (default: {config.train.steps})"
            in help_text
        )
        assert f"as the server names it. (default: {config.model.name})" in help_text
        assert f"none is all. (default: {config.validation.problems})" in help_text
    file = tmp_path / "mine.toml"
    file.write_text('preset = "geometry3k"\ntrain.steps = 9\ndata.columns.answer = "solution"\n')
    of_file = shown("--config", str(file), "--train.steps", "4")
    assert "Steps of the whole run. (default: 9)" in of_file
    assert "Default: answer (default: solution)" in of_file
    assert "(default: geometry3k)" in of_file
    with pytest.raises(ConfigError, match="no preset 'foo'"):
        load_config(["--help", "--preset", "foo"])


@pytest.mark.parametrize("buffering", [[], ["-u"]])
def test_help_ends_quietly_where_nobody_reads_on(buffering: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # what `| head` does when it has its lines
    code = "from visual_r1.config.command_line import load_config; load_config(['--help'])"
    try:
        ended = subprocess.run(
            [sys.executable, *buffering, "-c", code], stdout=writer, stderr=subprocess.PIPE
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_file_changes_only_what_it_says_of_a_stored_configuration(tmp_path: Path) -> None:
    """As flags do: a section that it names keeps its other settings."""
    flags = ["--preset", "geometry3k", "--backend.server", "remote", "--limits.budget_usd", "40"]
    flags += ["--evaluation.problems", "50", "--data.columns.problem", "question"]
    stored = load_config(flags)
    file = tmp_path / "more.toml"
    file.write_text(
        "[evaluation]\ncontrols = ['other_image']\n[backend]\nrecoveries_per_hour = 20\n"
        "[limits]\nsample_retries = 4\n[data.columns]\nid = 'name'\n"
    )
    flags = ["--evaluation.controls", "other_image", "--backend.recoveries_per_hour", "20"]
    flags += ["--limits.sample_retries", "4", "--data.columns.id", "name"]
    by_flags = load_config(flags, beneath=stored)
    assert by_flags.limits.budget_usd == 40
    assert load_config(["--config", str(file)], beneath=stored) == by_flags


def test_of_several_files_each_lies_over_those_before_it(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text('preset = "geometry3k"\nlimits.budget_usd = 40\ntrain.steps = 9\n')
    second.write_text("[train]\nsteps = 7\n")
    config = load_config(["--config", str(first), f"--config={second}"])
    assert (config.preset, config.limits.budget_usd, config.train.steps) == ("geometry3k", 40, 7)
    swapped = load_config([f"--config={second}", f"--config={first}", "--train.batch_size", "3"])
    assert (swapped.train.steps, swapped.train.batch_size) == (9, 3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train.steps = true", r"^train\.steps = True: true is for switches, and this is none\.$"),
        ("limits.budget_usd = true", r"^limits\.budget_usd = True: true is for switches"),
        ("train.learning_rate = true", r"^train\.learning_rate = True"),
        ("evaluation.samples = false", r"^evaluation\.samples = False: false is for switches"),
        ("validation.problems = true", r"^validation\.problems = True"),
        ("algorithm.loss_config.beta = true", r"^loss_config\.beta is true, and takes a number\.$"),
        ("logging.wandb = 1", r"^logging\.wandb = 1: this is a switch: it takes true or false\.$"),
        ("data.show_choices = 0.0", r"^data\.show_choices = 0\.0: this is a switch"),
    ],
)
def test_in_a_file_a_switch_is_no_number_and_a_number_no_switch(
    tmp_path: Path, text: str, sentence: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_config(["--config", str(file)])
    for preset in preset_names():
        config = RunConfig(preset=preset)
        assert RunConfig.model_validate_json(config.model_dump_json()) == config
