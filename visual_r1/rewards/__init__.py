"""Rewards: named components, each a pure function of one sample, and their weighted sum."""

from visual_r1.rewards.custom import load_custom
from visual_r1.rewards.grounding import format_ok, visual_grounding
from visual_r1.rewards.sample import Part, RewardInput, Scored
from visual_r1.rewards.scoring import COMPONENTS, score

__all__ = [
    "COMPONENTS",
    "Part",
    "RewardInput",
    "Scored",
    "format_ok",
    "load_custom",
    "score",
    "visual_grounding",
]
