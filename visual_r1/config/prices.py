"""What the server takes for tokens."""

from pydantic import Field

from visual_r1.config.section import Section


class PricesSection(Section):
    """US dollars for a million tokens; without all three no cost is told."""

    prefill: float | None = Field(
        default=None, ge=0, description="For a million tokens of prompts, images included."
    )
    sample: float | None = Field(default=None, ge=0, description="For a million sampled tokens.")
    train: float | None = Field(
        default=None, ge=0, description="For a million tokens that are trained on."
    )
