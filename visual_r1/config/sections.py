"""How the policy is trained: steps, losses, optimizer, sampling.

What is rewarded.

The run and its surroundings: server, model, prompt, evaluation, logging.

Where problems come from.

Which signs of trouble warn, and which pause the run.

What the server takes for tokens.

What all sections of the configuration are.
"""

from pathlib import Path
from types import NoneType
from typing import Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

# Flags and TOML have no null: both words, in any case, are one.
NONE_WORDS = {"none", "null"}


class Section(BaseModel):
    """A group of settings: immutable, finite, and an unknown key is an error.

    Where a setting may be None, the words `none` and `null` say so. A name that is spelt so cannot
    be given then: a column, say. A folder can (`./none`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _none_in_words(cls, value: object, field: ValidationInfo) -> object:
        is_none = isinstance(value, str) and value.strip().lower() in NONE_WORDS
        annotation = cls.model_fields[field.field_name or ""].annotation
        return None if is_none and NoneType in get_args(annotation) else value


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


class RewardSection(Section):
    format: float = 0.5
    accuracy: float = 1.0
    visual_grounding: float = 0.1
    random: float = Field(
        default=0.0, description="A coin flip, as a control: nothing can be learnt from it."
    )
    length: float = Field(
        default=0.0, description="Weight of the length penalty (DAPO's soft overlong punishment)."
    )
    truncation: float = Field(
        default=0.0, description="Weight of the penalty on responses that ran out of tokens."
    )
    repetition: float = Field(
        default=0.0, description="Weight of the penalty on n-grams that stood before."
    )
    custom: str | None = Field(
        default=None,
        description="Your own function, module:function; it takes a sample and its grade.",
    )
    custom_weight: float = 1.0
    rounding: Literal["exact", "rounded"] = "exact"


class SecondPassSection(Section):
    """Whether the scan alone leads to the answer: each sample's scan is read without the image."""

    enabled: bool = Field(
        default=False, description="Answer from each <scan> again, without the image (Vision-SR1)."
    )
    reward: float = Field(default=1.0, description="For a second pass that is right.")
    penalty: float = Field(
        default=-0.5, description="For one that is not, for no scan, and for a scan that leaks."
    )
    minus_question_only: bool = Field(
        default=False,
        description="Scale the reward by the share of answers without image and scan that are not "
        "right: what the question alone gives away earns nothing.",
    )
    template: str = Field(default="scan_only", description="Prompt of the second pass.")
    question_only_template: str = Field(
        default="think", description="Prompt of the pass without image and scan."
    )


class PenaltySection(Section):
    length_buffer: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of sampling.max_new_tokens over which the length penalty grows.",
    )
    repetition_ngram: int = Field(
        default=40, ge=2, description="Tokens of the n-grams that the repetition penalty counts."
    )


class RunSection(Section):
    name: str | None = Field(
        default=None,
        description="Name of the run; by default <preset>-<digest of the configuration>.",
    )

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip(". ") or set(name) & {"/", "\\", "\0"}):
            raise ValueError("a run's name is the name of its folder under runs/, without slashes")
        return name


class BackendSection(Section):
    server: Literal["auto", "embedded", "remote"] = Field(
        default="auto",
        description="auto: TINKER_BASE_URL, else TINKER_API_KEY, else the embedded engine.",
    )
    base_url: str | None = Field(default=None, description="A Tinker-compatible server.")
    threads: int = Field(
        default=2, ge=1, description="Threads of the engine: results depend on it."
    )
    engine_home: Path | None = Field(default=None, description="Default: .visual-r1/engine")
    checkpoint_ttl_seconds: int = Field(
        default=7 * 86400,
        ge=3600,
        description="Lifetime of periodic checkpoints, renewed while the run needs them; the final "
        "one has none.",
    )
    keep_checkpoints: int | None = Field(
        default=None,
        ge=2,
        description="Delete all but so many of the newest checkpoints; default: leave them to "
        "their lifetime.",
    )
    keep_best: bool = Field(
        default=True, description="Keep the best checkpoint by validation beside them."
    )
    recoveries_per_hour: int = Field(
        default=12,
        ge=0,
        description="New sessions from the last checkpoint, after failures of the server.",
    )


class ModelSection(Section):
    name: str = Field(
        default="Qwen/Qwen3-VL-30B-A3B-Instruct", description="Base model, as the server names it."
    )
    lora_rank: int = Field(default=16, ge=1)
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True
    max_pixels: int = Field(
        default=1_003_520, ge=1024, description="Larger images are scaled down to this area."
    )


class PromptSection(Section):
    template: str = Field(
        default="think", description="Name of a shipped template, or the path of your own."
    )


class EvaluationSection(Section):
    samples: int = Field(
        default=8, ge=1, description="Samples a problem for pass@k, at the training temperature."
    )
    problems: int | None = Field(
        default=None, ge=1, description="Test problems to use; default all."
    )
    blind: bool = Field(default=True, description="Also with the image blanked.")
    seed: int = 0


class ValidationSection(Section):
    """Held-out problems between the steps of training: to watch it, and to choose a checkpoint."""

    every: int = Field(
        default=0, ge=0, description="Validate each so many checkpoints, and the last; 0 is off."
    )
    problems: int | None = Field(
        default=128, ge=1, description="Problems of the validation split to use; none is all."
    )
    blind: bool = Field(default=True, description="Also with the image blanked.")
    seed: int = Field(default=0, description="Which problems are drawn, where not all are used.")


class LoggingSection(Section):
    wandb: bool = Field(default=True, description="Offline where WANDB_API_KEY is not set.")
    wandb_project: str = "visual-r1"


def listed(names: str | None) -> tuple[str, ...]:
    """The names in a setting that takes several with commas between them."""
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


class Names(Section):
    """Settings that name columns or splits of a source; a TOML list is as good as commas."""

    @field_validator("*", mode="before")
    @classmethod
    def _joined(cls, names: object) -> object:
        return ",".join(map(str, cast("list[object]", names))) if isinstance(names, list) else names


class ColumnsSection(Names):
    """Which of a source's columns hold what; where nothing is said, this project's own names."""

    problem: str | None = Field(default=None, description="Default: problem")
    answer: str | None = Field(default=None, description="Default: answer")
    answer_index: str | None = Field(
        default=None, description="The number of the right choice, from 0, in place of an answer."
    )
    images: str | None = Field(
        default=None, description="One column, or several with commas. Default: images, or image"
    )
    choices: str | None = Field(
        default=None, description="A column of lists, or one column a choice. Default: choices"
    )
    id: str | None = Field(default=None, description="Default: id")
    family: str | None = Field(default=None, description="What reports are broken down by.")
    keep: str | None = Field(default=None, description="Others to keep in meta, with commas.")


class SplitsSection(Names):
    """Which of a source's splits serve as ours; once one is named, no other is used."""

    train: str | None = Field(default=None, description="One, or several with commas.")
    validation: str | None = Field(default=None, description="One, or several with commas.")
    test: str | None = Field(default=None, description="One, or several with commas.")


class DataSection(Section):
    source: str = Field(
        default="hiyouga/geometry3k",
        description="procedural, a hub id, or a folder or file: Parquet, JSONL, images with "
        "metadata, the Inter-GPS layout.",
    )
    subset: str | None = Field(default=None, description="Of a hub id: its configuration.")
    splits: SplitsSection = SplitsSection()
    columns: ColumnsSection = ColumnsSection()
    show_choices: bool = Field(
        default=False, description="Put the choices, lettered, behind the problem."
    )
    max_rejected_share: float = Field(
        default=0.2, ge=0, le=1, description="Stop where more of the rows are bad."
    )
    seed: int = Field(
        default=0, description="Seed of the procedural problems and of a split by hash."
    )
    train: int | None = Field(
        default=None, ge=1, description="Training problems; default all (procedural: 4096)."
    )
    validation: int | None = Field(default=None, ge=1, description="Default all (procedural: 256).")
    test: int | None = Field(default=None, ge=1, description="Default all (procedural: 512).")


AlarmAction = Literal["off", "warn", "pause"]


class AlarmsSection(Section):
    """What each alarm does; what trips them is in `visual_r1.alarms` and docs/alarms.md."""

    format: AlarmAction = Field(
        default="warn", description="A paid habit such as the format grows, and accuracy does not."
    )
    length: AlarmAction = Field(
        default="warn", description="Responses grow without getting better, or run out of tokens."
    )
    scans: AlarmAction = Field(
        default="warn", description="Scans carry the answer that they should lead to."
    )
    blind_gap: AlarmAction = Field(
        default="warn", description="What is learnt is learnt without the image."
    )
    entropy: AlarmAction = Field(
        default="warn", description="The policy collapses to few answers, or dissolves into noise."
    )
    validation: AlarmAction = Field(
        default="warn", description="Accuracy falls, on the validation problems or in training."
    )
    mismatch: AlarmAction = Field(
        default="warn", description="The server samples from another policy than it trains."
    )
    window: int = Field(default=10, ge=4, description="Steps that are compared with earlier ones.")
    max_kl: float = Field(
        default=0.01,
        gt=0,
        description="Of the alarm mismatch: KL between sampler and learner, in nats a token; or a "
        "hundredth of the entropy, where that is less.",
    )
    max_scan_answers: float = Field(
        default=0.1, gt=0, le=1, description="Of the alarm scans: share of scans with an answer."
    )


class PricesSection(Section):
    """US dollars for a million tokens; without all three no cost is told."""

    prefill: float | None = Field(
        default=None, ge=0, description="For a million tokens of prompts, images included."
    )
    sample: float | None = Field(default=None, ge=0, description="For a million sampled tokens.")
    train: float | None = Field(
        default=None, ge=0, description="For a million tokens that are trained on."
    )
