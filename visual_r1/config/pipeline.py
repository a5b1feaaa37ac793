"""How sampling and learning overlap, and what is done about samples of earlier weights."""

from typing import Annotated, Literal

from pydantic import Field

from visual_r1.config.needs import Needs
from visual_r1.config.section import Section
from visual_r1.config.sections import AlgorithmSection, TrainSection

Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

CORRECTED = ("importance_sampling", "ppo", "cispo", "gspo")
"""The losses whose ratio may be taken to other weights than those that sampled."""


class PipelineSection(Section):
    """Groups go to the learner while others are sampled; `algorithm.max_staleness` does more."""

    parts: int | None = Field(
        default=None,
        ge=1,
        description="In how many parts, at most, the batch of a step goes to the learner, each as "
        "soon as its groups are complete. Default: 1 on our engine, which samples and trains in "
        "turns and whose sums have other last bits in other parts, 4 on another server.",
    )
    correction: Correction = Field(
        default="none",
        description="What bounds the ratio of the learner's probabilities to the sampler's: "
        "truncated or masked, by token or for a whole response; costs a forward ahead of the "
        "update. none leaves it to the loss.",
    )
    ratio_low: Annotated[float, Needs("pipeline.correction", "token_mask", "sequence_mask")] = (
        Field(default=0.5, ge=0, lt=1, description="A mask leaves out what has a smaller ratio.")
    )
    ratio_high: Annotated[float, Needs("pipeline.correction")] = Field(
        default=2.0,
        gt=1,
        description="A ratio above is cut to this, or left out where it is masked.",
    )


def why_whole(train: TrainSection, algorithm: AlgorithmSection) -> str:
    """What needs the whole batch of a step before any of it is learnt from, by its key.

    Empty where the gradient is a sum that may be added up in parts.
    """
    if algorithm.normalization != "none":
        return f"algorithm.normalization {algorithm.normalization} divides by the whole batch"
    if algorithm.advantage == "gdpo":
        return "algorithm.advantage gdpo divides by the standard deviation over the batch"
    if algorithm.minibatches > 1:
        return "algorithm.minibatches draws from the whole batch"
    if ":" in train.loss or train.loss == "sapo":
        return f"train.loss {train.loss} is given a minibatch as a whole"
    if train.loss == "stable_reinforce":
        return "train.loss stable_reinforce has no published formula that says it is a sum"
    return ""
