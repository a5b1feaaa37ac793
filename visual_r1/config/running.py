"""The run and its surroundings: server, model, prompt, evaluation, logging."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from visual_r1.config.section import Section


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
