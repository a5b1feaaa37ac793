import pytest

from visual_r1.config import TrainSection
from visual_r1.errors import ConfigError
from visual_r1.rl.losses import loss_of


def test_ppo_sends_ratios_around_one() -> None:
    loss = loss_of(TrainSection(loss="ppo", clip_epsilon=0.25))
    assert loss.name == "ppo"
    assert loss.config == {"clip_low_threshold": 0.75, "clip_high_threshold": 1.25}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("importance_sampling", {}),
        ("cispo", {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}),
        ("dro", {"beta": 0.05}),
    ],
)
def test_other_losses_take_nothing_from_clip_epsilon(name: str, config: dict[str, float]) -> None:
    assert loss_of(TrainSection(loss=name, clip_epsilon=0.4)).config == config


def test_only_the_loss_with_a_penalty_counts_the_prompt() -> None:
    names = ["importance_sampling", "ppo", "cispo", "dro"]
    assert [loss_of(TrainSection(loss=name)).counts_prompt for name in names] == [False] * 3 + [
        True
    ]


def test_an_unknown_loss_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'reinforce'.*importance_sampling, ppo, cispo, dro"):
        loss_of(TrainSection(loss="reinforce"))
