"""What is rewarded."""

from typing import Literal

from pydantic import Field

from visual_r1.config.section import Section


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
