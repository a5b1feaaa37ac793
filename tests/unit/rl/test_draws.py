"""The draw ratio: 1 where samples come from the distribution that they are reported with."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from sampled import group_of, rollout

from visual_r1.policy.policy import Rollout, RolloutGroup
from visual_r1.rl.metrics import draw_ratio

STOP = 9


def sample(tokens: Sequence[int], logprobs: Sequence[float]) -> Rollout:
    return replace(rollout(tokens=tokens), logprobs=tuple(logprobs))


def drawn(rng: np.random.Generator, temperature: float, size: int = 8) -> RolloutGroup:
    """Answers of three tokens and a stop, from distributions that depend on what went before."""
    samples = []
    for _ in range(size):
        tokens: list[int] = []
        logprobs: list[float] = []
        for place in range(3):
            logits = np.sin(np.arange(5) * (1 + place + sum(tokens))) * 2
            p = np.exp(logits) / np.exp(logits).sum()
            q = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
            token = int(rng.choice(5, p=q))
            tokens.append(token)
            logprobs.append(math.log(p[token]))
        samples.append(sample([*tokens, STOP], [*logprobs, 0.0]))
    return group_of(*samples)


@pytest.mark.parametrize(
    ("temperature", "low", "high"), [(1.0, 0.98, 1.02), (0.7, 0.85, 0.95), (1.4, 1.03, 1.1)]
)
def test_it_tells_the_temperature_of_the_draw(temperature: float, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    ratio = draw_ratio([drawn(rng, temperature) for _ in range(400)])
    assert ratio is not None
    assert low < ratio < high


def test_a_step_by_hand() -> None:
    half, third = math.log(0.5), math.log(0.25)
    group = group_of(
        sample([1, 2], [half, half]),
        sample([1, 3], [half, half]),
        sample([4, 2], [third, 0.0]),
    )
    # First place: 2 of 3 pairs part, 1 - p is 0.5, 0.5, 0.75 on average; weight 2. Then one pair.
    seen, expected = 2 * 2 / 3 + 1, 2 * (1.75 / 3) + 0.5
    assert draw_ratio([group] * 10) == pytest.approx(seen / expected)
    # Fewer than five partings expected are no evidence.
    assert draw_ratio([group]) is None


def test_what_says_nothing() -> None:
    assert draw_ratio([]) is None
    same = sample([1, 2], [0.0, 0.0])
    assert (
        draw_ratio([group_of(same, same, same), group_of(rollout(tokens=[])), group_of()]) is None
    )
