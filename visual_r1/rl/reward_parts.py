"""What each component added to a sample's reward."""

from collections.abc import Mapping
from dataclasses import dataclass

from visual_r1.config import RunConfig
from visual_r1.policy.policy import Rollout
from visual_r1.policy.second_pass import COMPONENT as SECOND_PASS
from visual_r1.rewards import COMPONENTS

KL = "kl"


@dataclass(frozen=True, slots=True)
class Part:
    """A component's weight, and its `worth`: what it added to the reward."""

    weight: float
    worth: float


def reward_parts(rollout: Rollout, config: RunConfig) -> Mapping[str, Part]:
    """The components with a weight, by name; their worths add up to the reward."""
    weights: dict[str, float] = {
        **config.reward.model_dump(include=set(COMPONENTS)),
        "custom": config.reward.custom_weight,
        KL: config.algorithm.kl_coefficient,
    }
    components = rollout.scored.components
    parts = {
        name: Part(weight, weight * components[name])
        for name, weight in weights.items()
        if weight and name in components
    }
    if rollout.second is not None:
        settings = config.second_pass
        right = rollout.second.right
        worth = settings.reward * components[SECOND_PASS] if right else settings.penalty
        parts[SECOND_PASS] = Part(settings.reward, worth)
    return parts
