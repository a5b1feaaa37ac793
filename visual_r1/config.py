"""RunConfig: everything a run depends on, in sections of at most ten fields.

The field defaults are the values of the scripts this project grew from, to the letter (preset
`seed` overrides nothing). Order of precedence, highest first: flags, `--config FILE.toml`, the
preset, the defaults.
"""

import hashlib
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, SettingsError

from visual_r1.errors import ConfigError

PRESETS_DIR = Path(__file__).parent / "presets"
DEFAULT_PRESET = "quickstart"

# What a run may change without becoming another run.
NOT_IDENTITY = ("run", "logging", "output_dir", "preset", "backend")
NOT_IDENTITY_IN_TRAIN = ("steps", "resume_from_step")


class Section(BaseModel):
    """A group of settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunSection(Section):
    name: str | None = Field(
        None, description="Name of the run; by default <preset>-<digest of the configuration>."
    )


class BackendSection(Section):
    server: Literal["auto", "embedded", "remote"] = Field(
        "auto",
        description="auto: TINKER_BASE_URL, else TINKER_API_KEY, else the embedded engine.",
    )
    base_url: str | None = Field(None, description="A Tinker-compatible server.")
    threads: int = Field(2, ge=1, description="Threads of the embedded engine: results depend on it.")
    engine_home: Path | None = Field(None, description="Default: .visual-r1/engine")
    checkpoint_ttl_seconds: int = Field(
        7 * 86400, ge=3600, description="Lifetime of periodic checkpoints; the final one has none."
    )


class ModelSection(Section):
    name: str = Field("Qwen/Qwen3-VL-30B-A3B-Instruct", description="Base model, as the server names it.")
    lora_rank: int = Field(16, ge=1)
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True
    max_pixels: int = Field(1_003_520, ge=1024, description="Larger images are scaled down to this area.")


class DataSection(Section):
    source: str = Field(
        "hiyouga/geometry3k",
        description="procedural, a hub id, a folder in the Inter-GPS layout, or a Parquet folder.",
    )
    seed: int = Field(0, description="Seed of the procedural problems and of a split by hash.")
    train: int | None = Field(None, ge=1, description="Training problems; default all (procedural: 4096).")
    validation: int | None = Field(None, ge=1, description="Default all (procedural: 256).")
    test: int | None = Field(None, ge=1, description="Default all (procedural: 512).")


class PromptSection(Section):
    template: str = Field("think", description="Name of a shipped template, or the path of your own.")


class TrainSection(Section):
    seed: int = 0
    steps: int = Field(500, ge=1)
    chunk_steps: int = Field(50, ge=1, description="Steps between two checkpoints.")
    batch_size: int = Field(4, ge=1, description="Problems a step.")
    group_size: int = Field(4, ge=2, description="Samples a problem.")
    learning_rate: float = Field(1e-6, gt=0)
    loss: str = Field("importance_sampling", description="importance_sampling, ppo, cispo or dro.")
    clip_epsilon: float = Field(0.2, gt=0, lt=1, description="ppo clips the ratio to 1 ± this.")
    skip_without_contrast: bool = Field(
        False, description="Leave out groups whose samples are all right or all wrong."
    )
    resume_from_step: int | None = Field(None, ge=0, description="Go back to the checkpoint of this step.")


class OptimizerSection(Section):
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-12, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip_norm: float = Field(0.0, ge=0, description="0 is off.")


class SamplingSection(Section):
    temperature: float = Field(0.9, gt=0)
    max_new_tokens: int = Field(768, ge=1)


class RewardSection(Section):
    format: float = 0.5
    accuracy: float = 1.0
    visual_grounding: float = 0.1
    random: float = Field(0.0, description="A coin flip, as a control: nothing can be learnt from it.")
    rounding: Literal["exact", "rounded"] = "exact"


class EvaluationSection(Section):
    samples: int = Field(8, ge=1, description="Samples a problem for pass@k, at the training temperature.")
    problems: int | None = Field(None, ge=1, description="Test problems to use; default all.")
    blind: bool = Field(True, description="Also with the image blanked.")
    seed: int = 0


class LoggingSection(Section):
    wandb: bool = Field(True, description="Offline where WANDB_API_KEY is not set.")
    wandb_project: str = "visual-r1"


class RunConfig(BaseModel):
    """One run, resolved. Construct it with `load_config`, or directly for the origin's values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = "seed"
    output_dir: Path = Path()
    run: RunSection = RunSection()
    backend: BackendSection = BackendSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    prompt: PromptSection = PromptSection()
    train: TrainSection = TrainSection()
    optimizer: OptimizerSection = OptimizerSection()
    sampling: SamplingSection = SamplingSection()
    reward: RewardSection = RewardSection()
    evaluation: EvaluationSection = EvaluationSection()
    logging: LoggingSection = LoggingSection()
