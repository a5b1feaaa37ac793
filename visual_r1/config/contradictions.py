"""Settings that make no sense together, found before anything is spent on them."""

from collections.abc import Iterator

from visual_r1.config.learning import AlgorithmSection, TrainSection
from visual_r1.config.rewarding import RewardSection, SecondPassSection


def contradictions(
    train: TrainSection,
    algorithm: AlgorithmSection,
    reward: RewardSection,
    second_pass: SecondPassSection,
) -> Iterator[str]:
    """A sentence, without its full stop, for each; it names the keys and the way out."""
    if algorithm.dynamic_rounds and not train.skip_without_contrast:
        yield (
            "algorithm.dynamic_rounds draws until enough groups have contrast, so it needs "
            "train.skip_without_contrast"
        )
    if algorithm.clip_higher is not None and train.loss != "ppo":
        yield (
            f"algorithm.clip_higher is ppo's upper clip, and train.loss is {train.loss}: set "
            "train.loss to ppo, or leave algorithm.clip_higher out (none)"
        )
    samples = train.batch_size * train.group_size
    if algorithm.minibatches > samples:
        yield (
            f"algorithm.minibatches is {algorithm.minibatches}, and a step has {samples} samples "
            f"(train.batch_size {train.batch_size} x train.group_size {train.group_size}): lower "
            f"it to {samples} at most, or raise one of those"
        )
    if not (_pays(reward) or _pays_a_bonus(second_pass) or algorithm.kl_coefficient):
        yield (
            "Nothing can be learnt: all weights of reward are 0, there is no second pass to pay "
            "for and algorithm.kl_coefficient is 0; give one of them a weight, such as "
            "reward.accuracy 1"
        )


def _pays(reward: RewardSection) -> bool:
    weights = (
        reward.format,
        reward.accuracy,
        reward.visual_grounding,
        reward.random,
        reward.length,
        reward.truncation,
        reward.repetition,
        reward.custom_weight if reward.custom is not None else 0.0,
    )
    return any(weights)


def _pays_a_bonus(second_pass: SecondPassSection) -> bool:
    return second_pass.enabled and bool(second_pass.reward or second_pass.penalty)
