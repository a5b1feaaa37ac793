"""How the policy is trained: steps, losses, optimizer, sampling."""

from typing import Literal, Self

from pydantic import Field, model_validator

from visual_r1.config.section import Section


class TrainSection(Section):
    seed: int = 0
    steps: int = Field(default=500, ge=1)
    chunk_steps: int = Field(default=50, ge=1, description="Steps between two checkpoints.")
    batch_size: int = Field(default=4, ge=1, description="Problems a step.")
    group_size: int = Field(default=4, ge=2, description="Samples a problem.")
    learning_rate: float = Field(default=1e-6, gt=0)
    loss: str = Field(
        default="importance_sampling",
        description="importance_sampling, ppo, cispo, dro, or another that the server offers.",
    )
    clip_epsilon: float = Field(
        default=0.2, gt=0, lt=1, description="ppo clips the ratio to 1 ± this."
    )
    skip_without_contrast: bool = Field(
        default=False, description="Leave out groups whose samples are all right or all wrong."
    )
    resume_from_step: int | None = Field(
        default=None, ge=0, description="Go back to the checkpoint of this step."
    )


class AlgorithmSection(Section):
    advantage: Literal["grpo", "dr_grpo", "rloo", "gdpo"] = Field(
        default="grpo", description="How the rewards of a group become advantages."
    )
    normalization: Literal["none", "token", "sequence", "constant"] = Field(
        default="none",
        description="What the summed loss is divided by, through the advantages: nothing, all "
        "tokens, each response's tokens and the responses, or max_new_tokens and the responses.",
    )
    clip_higher: float | None = Field(
        default=None, gt=0, description="ppo's upper clip is 1 + this; default train.clip_epsilon."
    )
    loss_config: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="Settings of the loss by name, over the defaults (cispo: clip_low_threshold, "
        "clip_high_threshold; dro: beta).",
    )
    minibatches: int = Field(default=1, ge=1, description="Optimizer steps an epoch of a batch.")
    epochs: int = Field(default=1, ge=1, description="Times that a batch is gone through.")
    dynamic_rounds: int = Field(
        default=0,
        ge=0,
        description="Further draws of problems, at most, until train.batch_size groups have "
        "contrast.",
    )
    mask_truncated: bool = Field(
        default=False, description="No gradient from responses that ran out of tokens."
    )
    kl_coefficient: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the KL to the base model in the reward, in nats a response.",
    )


class CurriculumSection(Section):
    """Which problems a step draws, by what this run has measured of them."""

    rule: Literal["none", "contrast"] = Field(
        default="none",
        description="none: epochs over all problems. contrast: more often those whose next group "
        "is likely to be neither all right nor all wrong.",
    )
    uniform_share: float = Field(
        default=0.2, ge=0, le=1, description="Part of the draw in which all problems count alike."
    )
    half_life: float = Field(
        default=50.0, gt=0, description="Steps after which an attempt counts half."
    )
    prior_attempts: float = Field(
        default=2.0,
        gt=0,
        description="How many attempts at a problem the pass rate of its family counts for.",
    )


class LimitsSection(Section):
    """What a run puts up with before it stops in a sentence; what was saved stays."""

    sample_retries: int = Field(
        default=2, ge=0, description="How often a sample request that failed is sent again."
    )
    least_sampled: float = Field(
        default=0.5, ge=0, le=1, description="Stop where less than this share of a step came back."
    )
    max_grad_norm: float | None = Field(
        default=None, gt=0, description="Stop before a step with a larger gradient norm is saved."
    )
    max_kl: float | None = Field(
        default=1.0,
        gt=0,
        description="Stop where sampler and learner differ more, in nats a token; none is off.",
    )


class OptimizerSection(Section):
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-12, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip_norm: float = Field(default=0.0, ge=0, description="0 is off.")
    grad_clip_per: Literal["sum", "response", "token"] = Field(
        default="sum",
        description="Whether grad_clip_norm is for the summed loss, or for its mean by response "
        "or token: then it is multiplied by their number.",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="How train.learning_rate falls after the warm-up."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear warm-up.")
    schedule_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps until the learning rate has fallen; not train.steps, which may be "
        "raised when a run goes on.",
    )
    final_fraction: float = Field(
        default=0.0, ge=0, le=1, description="Of the learning rate, what is left in the end."
    )

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.schedule != "constant" and self.schedule_steps is None:
            raise ValueError(
                f"The {self.schedule} schedule needs optimizer.schedule_steps, the step at which "
                "it ends"
            )
        if (self.schedule_steps or self.warmup_steps + 1) <= self.warmup_steps:
            raise ValueError("optimizer.schedule_steps must be more than optimizer.warmup_steps")
        return self


class SamplingSection(Section):
    temperature: float = Field(default=0.9, gt=0)
    max_new_tokens: int = Field(default=768, ge=1)
