"""What a run is watched for, what it bears and may cost, and the prices."""

from typing import Annotated, Literal

from pydantic import Field

from visual_r1.config.section import LATER, Section

AlarmAction = Literal["off", "warn", "pause"]


class AlarmsSection(Section):
    """What each alarm does; what trips them is in `visual_r1.alarms` and docs/alarms.md."""

    format: AlarmAction = Field(
        default="warn",
        description="Format or another habit that pays rises, and accuracy does not.",
    )
    length: AlarmAction = Field(
        default="warn", description="Responses grow longer and not better, or run out of tokens."
    )
    scans: AlarmAction = Field(
        default="warn", description="Scans carry the answer that they should lead to."
    )
    blind_gap: AlarmAction = Field(
        default="warn", description="Accuracy rises without the image as well."
    )
    entropy: AlarmAction = Field(
        default="warn",
        description="The policy collapses to a few answers, or dissolves into noise.",
    )
    validation: AlarmAction = Field(
        default="warn", description="Accuracy falls, on the validation problems or in training."
    )
    mismatch: AlarmAction = Field(
        default="warn", description="The server samples from another policy than it trains."
    )
    window: int = Field(
        default=10, ge=4, description="How many of the newest steps are compared with earlier ones."
    )
    max_kl: float = Field(
        default=0.01,
        gt=0,
        description="Limit of the alarm mismatch: KL between sampler and learner, in nats a token; "
        "or a hundredth of the entropy, where that is less.",
    )
    max_scan_answers: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Limit of the alarm scans: share of scans with an answer.",
    )


class LimitsSection(Section):
    """What a run bears before it stops; its checkpoints stay."""

    sample_retries: int = Field(
        default=2, ge=0, description="How often a failed request for samples is sent again."
    )
    least_sampled: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Stop where a smaller share of a step's samples came back.",
    )
    max_grad_norm: float | None = Field(
        default=None,
        gt=0,
        description="Stop where the gradient norm is larger, before the step is saved.",
    )
    max_kl: float | None = Field(
        default=1.0,
        gt=0,
        description="Stop where the KL between sampler and learner is larger, in nats a token; "
        "none is off.",
    )
    budget_usd: Annotated[float | None, LATER] = Field(
        default=None,
        gt=0,
        description="End the run, with its evaluation and report, at the checkpoint after which "
        "another chunk would cost more US dollars in all; nothing is paid on the embedded engine.",
    )
    budget_tokens: Annotated[int | None, LATER] = Field(
        default=None,
        gt=0,
        description="The same in tokens: read, read from the cache, sampled and trained on.",
    )


class PricesSection(Section):
    """US dollars, over those that the package knows of the hosted service's models."""

    prefill: float | None = Field(
        default=None, ge=0, description="US dollars for a million prompt tokens, images included."
    )
    sample: float | None = Field(
        default=None, ge=0, description="US dollars for a million sampled tokens."
    )
    train: float | None = Field(
        default=None, ge=0, description="US dollars for a million tokens that are trained on."
    )
    cached: Annotated[float | None, LATER] = Field(
        default=None,
        ge=0,
        description="US dollars for a million prompt tokens out of the server's cache, those of "
        "the further samples of a request among them; default: a fifth of prices.prefill.",
    )
    storage: Annotated[float | None, LATER] = Field(
        default=None, ge=0, description="US dollars for a gigabyte of checkpoints and a month."
    )
