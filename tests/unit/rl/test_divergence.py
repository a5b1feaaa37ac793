"""KL, ratios and clip share between sampler and learner."""

import math

import numpy as np
import pytest

from visual_r1.config import AlgorithmSection, TrainSection
from visual_r1.rl.divergence import Divergence, clip_share, divergence
from visual_r1.rl.losses import loss_of

# Two responses of 4 and 3 tokens, with an advantage each, and one of 2 whose advantage is 0.
RATIOS = ([0.5, 0.9, 1.25, 5.0], [0.5, 1.3, 0.7], [9.0, 0.1])
ADVANTAGES = (1.0, -2.0, 0.0)


def made(loss: str, **algorithm: object) -> Divergence:
    """The divergence of responses whose ratios are `RATIOS`."""
    sampler = [np.full(len(ratios), -1.0, np.float32) for ratios in RATIOS]
    learner = [
        one + np.log(np.array(ratios)).astype(np.float32)
        for one, ratios in zip(sampler, RATIOS, strict=True)
    ]
    settings = AlgorithmSection.model_validate(algorithm)
    return divergence(sampler, learner, ADVANTAGES, loss_of(TrainSection(loss=loss), settings))


@pytest.mark.parametrize(
    ("loss", "algorithm", "clipped"),
    [
        # Of the first response 1.25 and 5, of the second 0.5 and 0.7: the others keep a gradient.
        ("ppo", {}, 4),
        ("ppo", {"clip_higher": 0.3}, 3),
        ("ppo", {"loss_config": {"clip_low_threshold": 0.6}}, 3),
        # Both sides, whatever the advantage: 5 and 9; and 0.1, 0.5 twice, 0.7, 0.9.
        ("cispo", {}, 2),
        ("cispo", {"loss_config": {"clip_low_threshold": 0.95}}, 7),
        # By response: the geometric means are 1.29, 0.77 and 0.95, the last with no advantage.
        ("gspo", {}, 7),
        ("gspo", {"loss_config": {"clip_high_threshold": 1.4}}, 3),
        ("gspo", {"loss_config": {"clip_low_threshold": 0.7}}, 4),
    ],
)
def test_a_token_is_clipped_where_its_loss_clips_it(
    loss: str, algorithm: dict[str, object], clipped: int
) -> None:
    found = made(loss, **algorithm)
    assert (found.clipped, found.tokens) == (clipped, 9)
    assert clip_share([found]) == clipped / 9


@pytest.mark.parametrize("loss", ["importance_sampling", "dro", "sapo", "stable_reinforce"])
def test_a_loss_without_a_known_clip_has_no_share(loss: str) -> None:
    assert made(loss).clipped is None
    assert clip_share([made(loss)]) is None
    if loss == "stable_reinforce":
        thresholds = {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}
        assert made(loss, loss_config=thresholds).clipped is None


def test_the_share_of_several_minibatches_is_over_all_their_tokens() -> None:
    small, large = (
        Divergence(0, 1, 1, tokens=2, clipped=1),
        Divergence(0, 1, 1, tokens=6, clipped=0),
    )
    assert clip_share([small, large]) == 1 / 8
    assert clip_share([]) is None


def test_ratios_and_divergence_by_hand() -> None:
    found = made("ppo")
    assert (found.ratio_max, found.ratio_min) == (pytest.approx(9), pytest.approx(0.1))
    ratios = [ratio for response in RATIOS for ratio in response]
    assert found.kl == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / 9, rel=1e-5)


def test_the_same_model_agrees_with_itself() -> None:
    logprobs = [np.array([-0.1, -2.0], np.float32), np.array([-1.0], np.float32)]
    loss = loss_of(TrainSection(loss="ppo"))
    assert divergence(logprobs, logprobs, [1.0, -1.0], loss) == Divergence(0.0, 1.0, 1.0, 3, 0)


def test_the_divergence_is_an_estimate_of_that_of_the_distributions() -> None:
    rng = np.random.default_rng(0)
    sampler = np.array([0.5, 0.3, 0.2])
    learner = np.array([0.4, 0.4, 0.2])
    drawn = rng.choice(3, size=200_000, p=sampler)
    found = divergence(
        [np.log(sampler)[drawn].astype(np.float32)],
        [np.log(learner)[drawn].astype(np.float32)],
        [1.0],
        loss_of(TrainSection()),
    )
    assert found.kl == pytest.approx(float(np.sum(sampler * np.log(sampler / learner))), rel=0.02)
    assert found.ratio_max == pytest.approx(4 / 3, rel=1e-5)
    assert found.ratio_min == pytest.approx(0.8, rel=1e-5)
