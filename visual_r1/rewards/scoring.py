"""The reward of one sample: each component, and their sum under the configured weights."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from visual_r1.config import RewardSection
from visual_r1.data.problem import Problem
from visual_r1.grading import Grade, grade
from visual_r1.hashing import stable_seed
from visual_r1.rewards.components import format_ok, opened, visual_grounding


@dataclass(frozen=True, slots=True)
class RewardInput:
    """One sample.

    Args:
        problem: what was asked.
        response: what the model wrote, without its stop token.
        truncated: it ran out of tokens.
        seed: a stable hash of the sample's place; the `random` component draws from it.
        opens_think: the template had already written `<think>`.
        tags: those that the template asks for, in their order.
    """

    problem: Problem
    response: str
    truncated: bool = False
    seed: int = 0
    opens_think: bool = False
    tags: Sequence[str] = ("think", "answer")


@dataclass(frozen=True, slots=True)
class Scored:
    """`reward` is the weighted sum; `components` holds every component unweighted, by name."""

    reward: float
    components: Mapping[str, float]
    grade: Grade


Component = Callable[[RewardInput, Grade], float]


def _format(sample: RewardInput, _: Grade) -> float:
    return float(format_ok(sample.response, sample.tags, sample.opens_think))


def _accuracy(_: RewardInput, verdict: Grade) -> float:
    """1 for right; 0 for wrong and for a grader that gave up (the grade keeps them apart)."""
    return float(verdict.right)


def _visual_grounding(sample: RewardInput, _: Grade) -> float:
    return visual_grounding(
        sample.response, sample.problem.question, opens_think=sample.opens_think
    )


def _random(sample: RewardInput, _: Grade) -> float:
    """A fair coin that nothing in the response can turn: the control."""
    return float(stable_seed("coin", sample.seed) & 1)


# A component is one line here and one weight of the same name in `RewardSection`.
COMPONENTS: Mapping[str, Component] = {
    "format": _format,
    "accuracy": _accuracy,
    "visual_grounding": _visual_grounding,
    "random": _random,
}


def score(reward: RewardSection, sample: RewardInput) -> Scored:
    """Grade the sample and add up its components.

    `reward = Σ weight_c · component_c`; every component is computed and kept, also at weight 0.
    """
    verdict = verdict_of(reward, sample)
    components = {name: component(sample, verdict) for name, component in COMPONENTS.items()}
    weights: Mapping[str, float] = reward.model_dump(include=set(COMPONENTS))
    total = sum(weights[name] * value for name, value in components.items())
    return Scored(total, components, verdict)


def verdict_of(reward: RewardSection, sample: RewardInput) -> Grade:
    """The grade of the sample's answer, under the configured rounding."""
    return grade(
        opened(sample.response, sample.opens_think),
        sample.problem.answer,
        reward.rounding,
        choices=shown_choices(sample.problem),
    )


def shown_choices(problem: Problem) -> Sequence[str]:
    """The choices, where the problem shows them or its answer is a letter; else none.

    A letter guessed for choices that the model never saw must not be right one time in four.
    """
    if not problem.choices:
        return ()
    if re.fullmatch(r"\(?[A-H]\)?", problem.answer.strip()):
        return problem.choices
    shown = all(
        re.search(rf"(?<!\w){re.escape(text)}(?!\w)", problem.problem) for text in problem.choices
    )
    return problem.choices if shown else ()
