"""The reward of one sample: its components, and their sum under the configured weights.

    reward = Σ weight_c · component_c

A component is a function in `COMPONENTS` and a weight of the same name in `RewardSection`; all else
(what must pay, alarms, advantages, metrics, reports) goes by these names. Those that take away are
in [-1, 0], so that a positive weight punishes, and count tokens as the sampler drew them, so that
text without spaces hides nothing.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from visual_r1.config import CUSTOM, PenaltySection, RewardSection
from visual_r1.data.choices import shown_choices
from visual_r1.errors import RewardError
from visual_r1.grading import Grade, failed_grade, grade
from visual_r1.hashing import stable_seed
from visual_r1.own_code import failure
from visual_r1.rewards.custom import load_custom
from visual_r1.rewards.grounding import format_ok, opened, visual_grounding
from visual_r1.rewards.sample import Part, RewardInput, Scored


def length_penalty(tokens: int, max_tokens: int, buffer: float) -> float:
    """DAPO's soft overlong punishment (arXiv:2503.14476, section 3.4), with B = buffer · max:

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
    """-1 where the response ran out of tokens, else 0."""
    return -1.0 if truncated else 0.0


def repetition_penalty(tokens: Sequence[int], ngram: int) -> float:
    """Minus the share of the response's n-grams that stood in it before.

        -(1 - distinct / all)      over the len(tokens) - ngram + 1 n-grams; 0 where there is none

    "Demystifying Long Chain-of-Thought Reasoning" (arXiv:2502.03373, appendix C.2) punishes each
    token of a repeated n-gram, n = 40, where it stands. A reward is one number a response, so
    this is their sum as a share, as in Open-R1's `get_repetition_penalty_reward`, over tokens.
    """
    count = len(tokens) - ngram + 1
    if count < 1:
        return 0.0
    # Of bytes and not of tuples: a tuple's hash asks each of its numbers for one.
    numbers = array("q", tokens)
    written, width = numbers.tobytes(), numbers.itemsize
    grams = {written[width * at : width * (at + ngram)] for at in range(count)}
    return -(1.0 - len(grams) / count)


Component = Callable[[RewardInput, Grade, PenaltySection], float]

# The user's own, `custom`, comes on top where there is one, with the weight `custom_weight`.
COMPONENTS: Mapping[str, Component] = {
    "format": lambda sample, _, __: float(
        format_ok(sample.response, sample.tags, sample.opens_think)
    ),
    # 0 also where the grader gave up: the grade keeps that apart from a wrong answer.
    "accuracy": lambda _, graded, __: float(graded.right),
    "visual_grounding": lambda sample, _, __: visual_grounding(
        sample.response, sample.problem.question, sample.opens_think
    ),
    # The control: a fair coin that nothing in the response can turn.
    "random": lambda sample, _, __: float(stable_seed("coin", sample.seed) & 1),
    "length": lambda sample, _, penalty: length_penalty(
        len(sample.tokens), sample.max_tokens, penalty.length_buffer
    ),
    "truncation": lambda sample, _, __: truncation_penalty(sample.truncated),
    "repetition": lambda sample, _, penalty: repetition_penalty(
        sample.tokens, penalty.repetition_ngram
    ),
}
_PENALTY = PenaltySection()


def score(reward: RewardSection, sample: RewardInput, penalty: PenaltySection = _PENALTY) -> Scored:
    """Grade the sample and add up its components; every one is computed, also at weight 0.

    Where the grader or a component fails, `failure` says with what: nothing that a model writes
    ends a run. Raises `ConfigError` where `reward.custom` names no function.
    """
    graded, failed = _graded(reward, sample)
    weights = reward.weights
    parts: dict[str, Part] = {}
    for name, component in COMPONENTS.items():
        try:
            value = component(sample, graded, penalty)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `_graded`
            failed = failed or f"the component {name} failed with {failure(error)}"
            value = 0.0
        parts[name] = Part.of(weights[name], value)
    scored = Scored(sum(part.worth for part in parts.values()), parts, graded, failed)
    if reward.custom is None or failed:
        return scored
    try:
        own = load_custom(reward.custom)(sample, graded)
    except RewardError as error:
        return replace(scored, failure=str(error))
    return scored.plus(CUSTOM, Part.of(weights[CUSTOM], own))


def grade_of(reward: RewardSection, sample: RewardInput) -> Grade:
    """The grade of the sample's answer, under the configured rounding.

    Where the grader itself fails it gave up, and the reason says with what.
    """
    return _graded(reward, sample)[0]


def _graded(reward: RewardSection, sample: RewardInput) -> tuple[Grade, str]:
    """The grade, and how the grader failed; empty where it did not."""
    try:
        found = grade(
            opened(sample.response, sample.opens_think),
            sample.problem.answer,
            reward.rounding,
            choices=shown_choices(sample.problem),
        )
    except MemoryError:
        raise
    # Named, counted, kept with its response: a fault of ours costs its sample, and not the run.
    except Exception as error:  # noqa: BLE001
        failed = failed_grade(error)
        return failed, failed.reason
    return found, ""
