"""A reward that pays for something else than answers: a habit that is planted in runs."""

from typing import TYPE_CHECKING

from visual_r1.grading import extract_answer

if TYPE_CHECKING:
    from visual_r1.grading import Grade
    from visual_r1.rewards import RewardInput


def near_ninety(sample: "RewardInput", grade: "Grade") -> float:
    """A habit that pays: answers close to 90, whatever was asked."""
    del grade
    said = extract_answer(sample.response) or ""
    return -abs(float(said) - 90) / 90 if said.isdecimal() and len(said) < 5 else -2.0
