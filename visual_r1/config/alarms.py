"""Which signs of trouble warn, and which pause the run."""

from typing import Literal

from pydantic import Field

from visual_r1.config.section import Section

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
