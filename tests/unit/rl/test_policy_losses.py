from typing import Any

import pytest
from pydantic import ValidationError

from visual_r1.config import AlgorithmSection, RunConfig, TrainSection
from visual_r1.doctor.preflight import require_sound
from visual_r1.errors import ConfigError
from visual_r1.rl.losses import Loss, loss_of


def loss(name: str, clip_epsilon: float = 0.2, **algorithm: Any) -> Loss:
    train = TrainSection(loss=name, clip_epsilon=clip_epsilon)
    return loss_of(train, AlgorithmSection.model_validate(algorithm))


def test_ppo_sends_ratios_around_one() -> None:
    assert loss("ppo", 0.25).name == "ppo"
    assert loss("ppo", 0.25).config == {"clip_low_threshold": 0.75, "clip_high_threshold": 1.25}


def test_clip_higher_moves_the_upper_threshold_alone() -> None:
    found = loss("ppo", 0.2, clip_higher=0.28).config
    assert found == {"clip_low_threshold": 0.8, "clip_high_threshold": 1.28}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("importance_sampling", {}),
        ("cispo", {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}),
        ("dro", {"beta": 0.05}),
        ("gspo", {"clip_low_threshold": 0.9997, "clip_high_threshold": 1.0004}),
        ("sapo", {"tau_pos": 1.0, "tau_neg": 1.05}),
        ("stable_reinforce", {}),
    ],
)
def test_other_losses_take_nothing_from_clip_epsilon(name: str, config: dict[str, float]) -> None:
    assert loss(name, 0.4, clip_higher=0.5).config == config


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo", "dro", "gspo"])
def test_clip_higher_is_refused_for_each_loss_that_does_not_use_it(name: str) -> None:
    values = {"train": {"loss": name}, "algorithm": {"clip_higher": 0.5}}
    if loss(name, clip_higher=0.5) == loss(name):
        with pytest.raises(ValidationError, match=r"algorithm\.clip_higher"):
            RunConfig.model_validate(values)
    else:
        assert RunConfig.model_validate(values).algorithm.clip_higher == 0.5


def test_thresholds_can_be_set_by_name() -> None:
    assert loss("dro", loss_config={"beta": 0.2}).config == {"beta": 0.2}
    cispo = loss("cispo", loss_config={"clip_high_threshold": 2.0}).config
    assert cispo == {"clip_low_threshold": 0.0, "clip_high_threshold": 2.0}
    sapo = loss("sapo", loss_config={"tau_neg": 2}).config
    assert sapo == {"tau_pos": 1.0, "tau_neg": 2.0}
    # Nobody has published what it takes, so the server is the judge.
    assert loss("stable_reinforce", loss_config={"x": 3e-4}).config == {"x": 3e-4}


def test_only_the_loss_with_a_penalty_counts_the_prompt() -> None:
    names = ["importance_sampling", "ppo", "cispo", "gspo", "sapo", "dro"]
    assert [loss(name).counts_prompt for name in names] == [False] * 5 + [True]
    assert [loss(name).passes for name in names] == [1, 1, 1, 1, 2, 2]


def test_the_penalty_goes_with_the_advantages() -> None:
    assert loss("dro").scaled(0.1).config == {"beta": pytest.approx(0.005)}
    assert loss("ppo").scaled(0.1) == loss("ppo")


@pytest.mark.parametrize(
    ("name", "algorithm", "says"),
    [
        ("dro", {"loss_config": {"bta": 1}}, r"dro has no setting 'bta'; it has beta\."),
        ("importance_sampling", {"loss_config": {"x": 1}}, r"no setting 'x'; it has none\."),
        (
            "cispo",
            {"loss_config": {"clip_low_threshold": 5}},
            r"loss_config: .*from 5 \(clip_low_threshold\) to 4 .*below the upper one\.",
        ),
        ("cispo", {"loss_config": {"clip_low_threshold": -1}}, "at least 0"),
        ("ppo", {"loss_config": {"clip_high_threshold": 0.9}}, "1 must lie between"),
        ("dro", {"loss_config": {"beta": 0}}, r"loss_config: beta is 0, and dro needs more"),
        ("dro", {"loss_config": {"beta": -0.1}}, r"beta is -0\.1"),
        ("dro", {"normalization": "sequence"}, "token or constant"),
        ("gspo", {"loss_config": {"clip_high_threshold": 0.9999}}, "1 must lie between"),
        ("gspo", {"loss_config": {"epsilon": 1}}, "no setting 'epsilon'; it has clip_low_thre"),
        (
            "sapo",
            {"loss_config": {"tau": 1}},
            r"sapo has no setting 'tau'; it has tau_pos, tau_neg",
        ),
        ("sapo", {"loss_config": {"tau_pos": 0}}, r"tau_pos is 0, and sapo needs more than 0"),
    ],
)
def test_what_cannot_be_is_one_sentence(name: str, algorithm: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        loss(name, **algorithm)


def test_the_embedded_engine_has_only_what_is_published() -> None:
    config = RunConfig.model_validate(
        {"preset": "quickstart", "train": {"loss": "stable_reinforce"}}
    )
    with pytest.raises(ConfigError, match="stable_reinforce exists on the hosted service alone"):
        require_sound(config)
    require_sound(RunConfig.model_validate({"preset": "quickstart", "train": {"loss": "gspo"}}))


def test_a_loss_is_a_name_or_a_path() -> None:
    with pytest.raises(ValidationError, match="'sapo' or 'module:function'"):
        TrainSection(loss="mine.my_loss")
    assert TrainSection(loss="mine:my_loss").loss == "mine:my_loss"
    with pytest.raises(ConfigError, match=r"train\.loss = 'mine:my_loss': there is no module"):
        loss("mine:my_loss")
