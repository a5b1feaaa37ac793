"""The reward of one sample: each component, and their sum under the configured weights.

Components that take away: each in [-1, 0], so that a positive weight punishes.

    length       DAPO's soft overlong punishment (arXiv:2503.14476, section 3.4)
    truncation   -1 for a response that ran out of tokens
    repetition   minus the share of n-grams of tokens that stood before (see below)

All count tokens as the sampler drew them, so that text without spaces hides nothing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from visual_r1.config import PenaltySection, RewardSection
from visual_r1.data.problem import Problem
from visual_r1.errors import RewardError
from visual_r1.grading import Grade, choice_named, grade
from visual_r1.hashing import stable_seed
from visual_r1.rewards.custom import load_custom
from visual_r1.rewards.grounding import format_ok, opened, visual_grounding


def length_penalty(tokens: int, max_tokens: int, buffer: float) -> float:
    """DAPO's soft overlong punishment of a response of `tokens` tokens, with B = buffer · max:

        0                              up to max - B
        ((max - B) - tokens) / B       above it, down to -1 at max
        -1                             from max on

    Args:
        tokens: length of the response, its stop token included.
        max_tokens: how long a response may be (`sampling.max_new_tokens`); 0 where nobody
            knows, and then there is no punishment.
        buffer: the share of `max_tokens` over which the punishment grows, in (0, 1]; DAPO has
            4,096 of 20,480, a fifth.
    """
    if max_tokens <= 0:
        return 0.0
    room = buffer * max_tokens
    over = tokens - (max_tokens - room)
    return -min(1.0, over / room) if over > 0 else 0.0


def truncation_penalty(truncated: bool) -> float:
    """-1 where the response ended because it was too long, else 0."""
    return -1.0 if truncated else 0.0


def repetition_penalty(tokens: Sequence[int], ngram: int) -> float:
    """Minus the share of the response's n-grams that stood in it before.

        -(1 - distinct / all)      over the len(tokens) - ngram + 1 n-grams; 0 where there is none

    "Demystifying Long Chain-of-Thought Reasoning" (arXiv:2502.03373, appendix C.2) punishes each
    token of a repeated n-gram, n = 40, where it stands. A reward is one number a response, so
    this is their sum as a share, as in Open-R1's `get_repetition_penalty_reward`, over tokens.
    """
    grams = [tuple(tokens[start : start + ngram]) for start in range(len(tokens) - ngram + 1)]
    return -(1.0 - len(set(grams)) / len(grams)) if grams else 0.0


@dataclass(frozen=True, slots=True)
class RewardInput:
    """One sample.

    Args:
        problem: what was asked.
        response: what the model wrote, without its stop token.
        truncated: it ran out of tokens.
        seed: a stable hash of the sample's place; whoever needs chance draws from it.
        opens_think: the template had already written `<think>`.
        tags: those that the template asks for, in their order.
        tokens: of the response, with the stop token that ended it.
        max_tokens: how many it might have had; 0 where nobody knows.
    """

    problem: Problem
    response: str
    truncated: bool = False
    seed: int = 0
    opens_think: bool = False
    tags: Sequence[str] = ("think", "answer")
    tokens: tuple[int, ...] = ()
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    """`reward` is the weighted sum; `components` holds every component unweighted, by name.

    Where the user's own function failed, `failure` says how and `reward` is the sum without it:
    nothing to learn from, the sample leaves its group.
    """

    reward: float
    components: Mapping[str, float]
    grade: Grade
    failure: str = ""


Component = Callable[[RewardInput, Grade, PenaltySection], float]


def _format(sample: RewardInput, _: Grade, __: PenaltySection) -> float:
    return float(format_ok(sample.response, sample.tags, sample.opens_think))


def _accuracy(_: RewardInput, verdict: Grade, __: PenaltySection) -> float:
    """1 for right; 0 for wrong and for a grader that gave up (the grade keeps them apart)."""
    return float(verdict.right)


def _visual_grounding(sample: RewardInput, _: Grade, __: PenaltySection) -> float:
    return visual_grounding(
        sample.response, sample.problem.question, opens_think=sample.opens_think
    )


def _random(sample: RewardInput, _: Grade, __: PenaltySection) -> float:
    """A fair coin that nothing in the response can turn: the control."""
    return float(stable_seed("coin", sample.seed) & 1)


def _length(sample: RewardInput, _: Grade, penalty: PenaltySection) -> float:
    return length_penalty(len(sample.tokens), sample.max_tokens, penalty.length_buffer)


def _truncation(sample: RewardInput, _: Grade, __: PenaltySection) -> float:
    return truncation_penalty(sample.truncated)


def _repetition(sample: RewardInput, _: Grade, penalty: PenaltySection) -> float:
    return repetition_penalty(sample.tokens, penalty.repetition_ngram)


# A component is one line here and one weight of the same name in `RewardSection`. The user's own,
# `custom`, comes on top where there is one, with the weight `custom_weight`.
COMPONENTS: Mapping[str, Component] = {
    "format": _format,
    "accuracy": _accuracy,
    "visual_grounding": _visual_grounding,
    "random": _random,
    "length": _length,
    "truncation": _truncation,
    "repetition": _repetition,
}
_PENALTY = PenaltySection()


def score(reward: RewardSection, sample: RewardInput, penalty: PenaltySection = _PENALTY) -> Scored:
    """Grade the sample and add up its components.

    `reward = Σ weight_c · component_c`; every component is computed and kept, also at weight 0.
    Raises `ConfigError` where `reward.custom` names no function.
    """
    verdict = verdict_of(reward, sample)
    components = {
        name: component(sample, verdict, penalty) for name, component in COMPONENTS.items()
    }
    weights: Mapping[str, float] = reward.model_dump(include=set(COMPONENTS))
    total = sum(weights[name] * value for name, value in components.items())
    if reward.custom is None:
        return Scored(total, components, verdict)
    try:
        own = load_custom(reward.custom)(sample, verdict)
    except RewardError as error:
        return Scored(total, components, verdict, failure=str(error))
    return Scored(total + reward.custom_weight * own, {**components, "custom": own}, verdict)


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
    if choice_named(problem.answer, problem.choices) is not None:
        return problem.choices
    shown = all(
        re.search(rf"(?<!\w){re.escape(text)}(?!\w)", problem.problem) for text in problem.choices
    )
    return problem.choices if shown else ()
