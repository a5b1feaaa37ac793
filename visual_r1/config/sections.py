"""The sections of the configuration: what can be set, its default, and what it means.

First how the policy is trained, then the run and its surroundings, and last where problems come
from. How it is judged stands in `config.judging`, what is rewarded in `config.reward`, and what a
run is watched for in `config.watch`.
"""

import re
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from visual_r1.config.needs import Needs
from visual_r1.config.section import LATER, STORED, Place, Section
from visual_r1.models import Thinking

LossName = Literal["importance_sampling", "ppo", "cispo", "dro", "gspo", "stable_reinforce", "sapo"]


def _a_loss(value: object) -> object:
    """Of what is neither a name nor a path, the names are told, as of any list of names."""
    if isinstance(value, str) and ":" not in value and value not in get_args(LossName):
        names = ", ".join(map(repr, get_args(LossName)))
        raise PydanticKnownError("literal_error", {"expected": f"{names} or 'module:function'"})
    return value


class TrainSection(Section):
    seed: int = Field(default=0, description="Seed of batches, samples and the adapter.")
    steps: int = Field(default=500, ge=1, description="Steps of the whole run.")
    more_steps: Annotated[int | None, LATER] = Field(
        default=None,
        ge=1,
        description="So many steps more than the run has when it is started, in place of steps: a "
        "night's work on a run that goes on.",
    )
    chunk_steps: int = Field(default=50, ge=1, description="Steps between two checkpoints.")
    batch_size: int = Field(default=4, ge=1, description="Problems in the batch of a step.")
    group_size: int = Field(default=4, ge=2, description="Samples of each problem in a step.")
    learning_rate: float = Field(
        default=1e-6,
        gt=0,
        description="Adam's step size, at its highest; for LoRA 1e-5 to 1e-4 is usual.",
    )
    loss: Annotated[
        LossName | Annotated[str, StringConstraints(pattern=":")], BeforeValidator(_a_loss)
    ] = Field(
        default="importance_sampling",
        description="The policy loss, or your own function as module:function; stable_reinforce is "
        "the hosted service's own.",
    )
    clip_epsilon: Annotated[float, Needs("train.loss", "ppo")] = Field(
        default=0.2, gt=0, lt=1, description="ppo clips the ratio of probabilities to 1 ± this."
    )
    skip_without_contrast: bool = Field(
        default=False,
        description="No gradient from groups whose samples are all right or all wrong.",
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
        description="What the summed loss is divided by: nothing, all tokens, each response's own "
        "tokens and the responses, or sampling.max_new_tokens and the responses.",
    )
    clip_higher: float | None = Field(
        default=None, gt=0, description="ppo's upper clip is 1 + this; default: train.clip_epsilon."
    )
    loss_config: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="Settings of the loss by name, over the defaults (cispo, gspo: "
        "clip_low_threshold, clip_high_threshold; dro: beta; sapo: tau_pos, tau_neg; your own: its "
        "keyword arguments).",
    )
    minibatches: int = Field(
        default=1, ge=1, description="Minibatches, and so optimizer steps, in each epoch."
    )
    epochs: int = Field(default=1, ge=1, description="Epochs over each batch.")
    dynamic_rounds: int = Field(
        default=0,
        ge=0,
        description="How often, at most, further problems are sampled until train.batch_size "
        "groups have contrast.",
    )
    mask_truncated: bool = Field(
        default=False, description="No gradient from responses that ran out of tokens."
    )
    kl_coefficient: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the KL divergence from the base model (or model.start_from) in the "
        "reward, in nats a response.",
    )
    max_staleness: Annotated[int, LATER] = Field(
        default=0,
        ge=0,
        le=2,
        description="How many steps the weights that sample a batch may be behind those that learn "
        "from it: sampling goes on while earlier batches train. 0: each waits for the other.",
    )


class CurriculumSection(Section):
    """Which problems a step draws, by what this run has measured of them."""

    rule: Literal["none", "contrast"] = Field(
        default="none",
        description="none: epochs over all problems. contrast: more often those whose next group "
        "is likely to be neither all right nor all wrong.",
    )
    uniform_share: Annotated[float, Needs("curriculum.rule", "contrast")] = Field(
        default=0.2, ge=0, le=1, description="Share of the problems that is drawn uniformly."
    )
    half_life: Annotated[float, Needs("curriculum.rule", "contrast")] = Field(
        default=50.0, gt=0, description="Steps after which an attempt counts for half."
    )
    prior_attempts: Annotated[float, Needs("curriculum.rule", "contrast")] = Field(
        default=2.0,
        gt=0,
        description="How many attempts the pass rate of a problem's family counts for.",
    )


class OptimizerSection(Section):
    beta1: float = Field(
        default=0.9, ge=0, lt=1, description="Adam's decay of the first moment, a step."
    )
    beta2: float = Field(
        default=0.95, ge=0, lt=1, description="Adam's decay of the second moment, a step."
    )
    eps: float = Field(default=1e-12, gt=0, description="Adam's epsilon, in the denominator.")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay.")
    grad_clip_norm: float = Field(
        default=0.0, ge=0, description="Largest norm of the gradient; 0 is no clip."
    )
    grad_clip_per: Annotated[
        Literal["sum", "response", "token"], Needs("optimizer.grad_clip_norm")
    ] = Field(
        default="sum",
        description="Whether grad_clip_norm is meant for the summed loss, or for its mean over "
        "responses or tokens: then it is multiplied by their number.",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="How train.learning_rate falls after the warm-up."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear warm-up.")
    schedule_steps: Annotated[int | None, Needs("optimizer.schedule", "linear", "cosine")] = Field(
        default=None,
        ge=1,
        description="Steps until the learning rate has fallen; not train.steps, which may be "
        "raised when a run goes on.",
    )
    final_fraction: Annotated[float, Needs("optimizer.schedule", "linear", "cosine")] = Field(
        default=0.0, ge=0, le=1, description="Share of the learning rate that is left at the end."
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
    temperature: float = Field(
        default=0.9,
        gt=0,
        description="Temperature of the samples in training, and of those for pass@k where "
        "evaluation.temperature is not set.",
    )
    max_new_tokens: int = Field(default=768, ge=1, description="Longest response, in tokens.")


class RunSection(Section):
    name: str | None = Field(
        default=None,
        description="Name of the run and of its folder under runs/; default: the preset and a "
        "digest of the configuration. {date} is filled in with the day (UTC) and {n} with the next "
        "number, and a run of such a name that is not finished is gone on with first.",
    )
    promote_as: str | None = Field(
        default=None,
        description="Name of a model: the run ends with its promotion over the current one, where "
        "the evidence allows it; none is no promotion.",
    )

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str | None) -> str | None:
        for unknown in set(re.findall(r"{[^{}]*}", name or "")) - {"{date}", "{n}"}:
            raise ValueError(f"{unknown} is nothing that is filled in: {{date}} and {{n}} are")
        if name is not None and (not name.strip(". ") or set(name) & {"/", "\\", "\0"}):
            raise ValueError("a run's name is the name of its folder under runs/, without slashes")
        return name


class BackendSection(Section):
    server: Literal["auto", "embedded", "remote"] = Field(
        default="auto",
        description="auto: TINKER_BASE_URL, else TINKER_API_KEY, else the embedded engine; in a "
        "deployment, the embedded engine alone. remote costs money on the hosted service.",
    )
    base_url: str | None = Field(
        default=None,
        description="Address of a Tinker-compatible server, which is used in place of the engine "
        "that a preset names.",
    )
    threads: int = Field(
        default=2,
        ge=1,
        description="Threads of the embedded engine, at most the cores; results depend on them.",
    )
    engine_home: Place | None = Field(
        default=None, description="Folder of the embedded engine; default: .visual-r1/engine."
    )
    checkpoint_ttl_seconds: int | None = Field(
        default=None,
        ge=3600,
        description="Lifetime of a checkpoint in seconds, renewed while the run needs it; the "
        "final one does not expire. Default: 7 days on a remote server, none on the embedded "
        "engine.",
    )
    keep_checkpoints: int | None = Field(
        default=None,
        ge=2,
        description="Keep so many of the newest checkpoints and delete the others; default: leave "
        "them to their lifetime.",
    )
    keep_best: bool = Field(
        default=True, description="Keep the best checkpoint by validation as well."
    )
    recoveries_per_hour: int = Field(
        default=12,
        ge=0,
        description="How often in an hour, at most, training goes on from the last checkpoint in a "
        "new session after the server failed.",
    )

    @field_validator("checkpoint_ttl_seconds", mode="before")
    @classmethod
    def _no_lifetime_that_nobody_chose(cls, value: object, field: ValidationInfo) -> object:
        """Seven days were the default everywhere once, and stand in what was stored."""
        return None if field.context == STORED and value == 7 * 86400 else value


class ModelSection(Section):
    name: str = Field(
        default="Qwen/Qwen3-VL-30B-A3B-Instruct", description="Base model, as the server names it."
    )
    lora_rank: int = Field(default=16, ge=1, description="Rank of the LoRA adapter.")
    train_mlp: bool = Field(default=True, description="LoRA on the MLPs.")
    train_attn: bool = Field(default=True, description="LoRA on the attention.")
    train_unembed: bool = Field(default=True, description="LoRA on the output embedding.")
    max_pixels: int = Field(
        default=1_003_520, ge=1024, description="Larger images are scaled down to so many pixels."
    )
    thinking: Annotated[Thinking, LATER] = Field(
        default="default",
        description="Whether the model thinks before it answers: as its chat template has it, or "
        "on or off where the template can be told. Thoughts want a larger sampling.max_new_tokens.",
    )
    start_from: Annotated[str | None, LATER] = Field(
        default=None,
        description="Where the weights come from in place of a new adapter: a training state on "
        "the server by its address, tinker://ID/weights/NAME, or a run's checkpoint, RUN or "
        "RUN@STEP (best, final, or a step).",
    )
    start_optimizer: Annotated[bool, LATER] = Field(
        default=False, description="Whether Adam's moments come along with model.start_from."
    )


class PromptSection(Section):
    template: str = Field(
        default="think", description="Name of a shipped template, or the path of one of your own."
    )


def listed(names: str | None) -> tuple[str, ...]:
    """The names in a setting that takes several with commas between them."""
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def with_commas(names: object) -> object:
    """A TOML list is as good as commas."""
    return ",".join(map(str, cast("list[object]", names))) if isinstance(names, list) else names


class Names(Section):
    """Settings that name columns or splits of a source; a TOML list is as good as commas."""

    @field_validator("*", mode="before")
    @classmethod
    def _joined(cls, names: object) -> object:
        return with_commas(names)


class ColumnsSection(Names):
    """Which of a source's columns hold what; where nothing is said, this project's own names."""

    problem: str | None = Field(
        default=None, description="The column of the problem. Default: problem"
    )
    answer: str | None = Field(
        default=None, description="The column of the right answer. Default: answer"
    )
    answer_index: str | None = Field(
        default=None, description="The number of the right choice, from 0, in place of an answer."
    )
    images: str | None = Field(
        default=None, description="One column, or several with commas. Default: images, or image"
    )
    choices: str | None = Field(
        default=None, description="A column of lists, or one for each choice. Default: choices"
    )
    id: str | None = Field(
        default=None, description="The column of a name for the problem. Default: id"
    )
    family: str | None = Field(
        default=None, description="The column of the kind of problem, for reports."
    )
    keep: str | None = Field(default=None, description="Other columns to keep, with commas.")


class SplitsSection(Names):
    """Which of a source's splits serve as ours; once one is named, no other is used."""

    train: str | None = Field(
        default=None, description="The source's splits for training: one, or several with commas."
    )
    validation: str | None = Field(
        default=None, description="The source's splits for validation: one, or several with commas."
    )
    test: str | None = Field(
        default=None, description="The source's splits for test: one, or several with commas."
    )


class DataSection(Section):
    source: str = Field(
        default="hiyouga/geometry3k",
        description="procedural, the id of a dataset on the hub, or a folder or file: Parquet, "
        "JSONL, images with metadata, the Inter-GPS layout.",
    )
    subset: str | None = Field(default=None, description="Configuration of a dataset on the hub.")
    splits: SplitsSection = SplitsSection()
    columns: ColumnsSection = ColumnsSection()
    show_choices: bool = Field(
        default=False, description="Show the choices, with letters, below the problem."
    )
    max_rejected_share: float = Field(
        default=0.2, ge=0, le=1, description="Stop where a larger share of the rows is bad."
    )
    seed: int = Field(
        default=0, description="Seed of procedural problems, and of splitting by hash."
    )
    train: int | None = Field(
        default=None, ge=1, description="Training problems; default: all (procedural: 4096)."
    )
    validation: int | None = Field(
        default=None, ge=1, description="Validation problems; default: all (procedural: 256)."
    )
    test: int | None = Field(
        default=None, ge=1, description="Test problems; default: all (procedural: 512)."
    )
