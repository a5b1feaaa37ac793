"""What people write on a command line who come from another program: each gets its hint."""

import re

import pytest

from visual_r1.config.command_line import load_config
from visual_r1.config.flags import flag_names, read_flags
from visual_r1.config.names import holds, nearest, settings
from visual_r1.errors import ConfigError


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--logging.wandb false", "a switch .* write --no-logging.wandb for"),
        ("--logging.wandb=no", "a switch .* write --no-logging.wandb for"),
        ("--no-logging.wandb=false", "a switch .* write --logging.wandb for"),
        ("--evaluation.blind yes", "write --evaluation.blind for"),
        ("--evaluation.blind maybe", r"--evaluation.blind switches it on, --no-evaluation.blind"),
        ("--no-train.steps 5", "only switches have a no-; --train.steps takes a value"),
        ("-preset quickstart", r"no flag -preset. Did you mean --preset\?"),
        ("--train-steps 5", r"Did you mean --train.steps\?"),
        ("--train_steps 5", r"Did you mean --train.steps\?"),
        ("--steps 5", r"Did you mean --train.steps\?"),
        ("--train.steps:5", r"Did you mean --train.steps\?"),
        ("--no-wandb", r"Did you mean --no-logging.wandb\?"),
        ("--train 5", r"--train is a section.*--train.seed, --train.steps"),
        (
            "\u2013train.steps 5",
            r"another dash than the keyboard's -. Did you mean --train.steps\?",
        ),
        ("train.steps=5", r"belongs to no flag: did you mean --train.steps=5, with two dashes\?"),
        ("train.steps 5", r"did you mean --train.steps, with two dashes\?"),
        ("Quickstart", r"did you mean --preset quickstart\?"),
        (
            "--run.name my run",
            "takes one value, and has 'my'; a value with blanks goes into quotes",
        ),
        ("--train.steps = 6", "Write --train.steps=6, without blanks"),
        ("--train.steps= 6", "Write --train.steps=6, without blanks"),
        ("--train.steps", "--train.steps needs a value after it"),
        ("--train.steps --train.seed 3", "needs a value after it, and --train.seed is the next"),
        ("--preset=Quickstart", r"no preset 'Quickstart'; .*Did you mean quickstart\?"),
        ("--train.steps=1e3", "write 1000"),
        ("--train.steps=1e999", "train.steps = '1e999': "),
        ("--train.steps 20k", "write 20000"),
        ("--train.steps 1,000", "write 1000"),
        ("--train.steps 6steps", "write 6"),
        ("--train.learning_rate 0,001", "write 0.001"),
        ("--evaluation.problems 1.5k", "write 1500"),
        ("--curriculum.uniform_share 20%", r"write 0\.2"),
        ("--prices.sample $0.5", r"write 0\.5"),
        ("--backend.checkpoint_ttl_seconds 7d", "write 604800"),
        ("--backend.checkpoint_ttl_seconds 90min", "write 5400"),
        ("--algorithm.advantage GRPO", "grpo is nearest"),
        ("--train.loss pppo", "ppo is nearest"),
    ],
)
def test_a_slip_gets_its_hint(flags: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(flags.split(" "))


@pytest.mark.parametrize("value", ["2.5", "six", "1e-3", "", "-", "inf"])
def test_what_is_no_whole_number_gets_no_wrong_hint(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^train.steps = ") as raised:
        load_config([f"--train.steps={value}"])
    assert "write" not in str(raised.value)


@pytest.mark.parametrize(
    ("flags", "read"),
    [
        (["--train.learning_rate", "-1e-3"], ["--train.learning_rate=-1e-3"]),
        (["--run.name", "-x"], ["--run.name=-x"]),
        (["--Train.Steps=5"], ["--train.steps=5"]),
        (["--algorithm.loss_config", "beta=0.1"], ["--algorithm.loss_config=beta=0.1"]),
        (["--no-evaluation.blind", "--data.show_choices"],) * 2,
    ],
)
def test_each_flag_has_its_value(flags: list[str], read: list[str]) -> None:
    assert read_flags(flags) == read


def test_every_flag_that_takes_a_value_says_so_and_every_switch_that_it_takes_none() -> None:
    for name in set(flag_names()) - {"config"}:
        switch = name in settings() and holds(name, bool)
        with pytest.raises(ConfigError, match="takes no value" if switch else "needs a value"):
            read_flags([f"--{name}", *(["false"] if switch else [])])


def test_every_name_is_the_nearest_to_itself_in_other_spellings() -> None:
    for name in settings():
        for spelt in (name, name.upper(), name.replace(".", "-"), re.sub(r"[._]", "-", name)):
            assert nearest(spelt, settings()) == [name]
