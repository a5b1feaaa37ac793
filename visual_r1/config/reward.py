"""What is rewarded: the table of components and their weights, and the bonus of a second pass."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from visual_r1.config.needs import Needs
from visual_r1.config.section import LATER, Section


@dataclass(frozen=True, slots=True)
class Weight:
    """Marks a field of `RewardSection` as the weight of the component of the same name.

    A `habit` can be learnt in place of right answers: the alarm `format` watches for its rise,
    where it pays. `format` itself is watched always.
    """

    habit: bool = False


CUSTOM = "custom"
"""The component of the user's own function."""


class RewardSection(Section):
    """The table of reward components: each field marked `Weight` is the weight of one.

    `visual_r1.rewards.COMPONENTS` holds their functions, under the same names.
    """

    format: Annotated[float, Weight()] = Field(
        default=0.5, description="Weight of the tags: each once, in order, nothing outside."
    )
    accuracy: Annotated[float, Weight()] = Field(
        default=1.0, description="Weight of a right answer."
    )
    visual_grounding: Annotated[float, Weight(habit=True)] = Field(
        default=0.1, description="Weight of naming things of the figure."
    )
    random: Annotated[float, Weight()] = Field(
        default=0.0, description="Weight of a coin flip, the control: it teaches nothing."
    )
    length: Annotated[float, Weight()] = Field(
        default=0.0, description="Weight of the length penalty (DAPO's soft overlong punishment)."
    )
    truncation: Annotated[float, Weight()] = Field(
        default=0.0, description="Weight of the penalty on responses that ran out of tokens."
    )
    repetition: Annotated[float, Weight()] = Field(
        default=0.0, description="Weight of the penalty on repeated n-grams."
    )
    custom: str | None = Field(
        default=None,
        description="Your own function, module:function; it takes a sample and its grade.",
    )
    custom_weight: Annotated[float, Needs("reward.custom")] = Field(
        default=1.0, description="Weight of your own function."
    )
    rounding: Literal["exact", "rounded"] = Field(
        default="exact", description="Whether a correctly rounded answer is right, too."
    )

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each component by name; of `custom`, where a function is named."""
        weights: dict[str, float] = {name: getattr(self, name) for name in self.table()}
        return weights if self.custom is None else {**weights, CUSTOM: self.custom_weight}

    @classmethod
    def table(cls) -> dict[str, Weight]:
        """The components by name, in the order in which they are added up; without `custom`."""
        return {
            name: mark
            for name, field in cls.model_fields.items()
            for mark in field.metadata
            if isinstance(mark, Weight)
        }


SECOND_PASS = Needs("second_pass.enabled")
SCANS = Needs("evaluation.controls", "scan_only")
QUESTIONS = Needs("evaluation.controls", "question_only")
"""The passes of a second pass, which an evaluation may make without one."""


class SecondPassSection(Section):
    """Whether the scan leads to the answer: the policy reads each scan again, without the image."""

    enabled: bool = Field(
        default=False, description="Answer from each scan again, without the image (Vision-SR1)."
    )
    reward: Annotated[float, SECOND_PASS] = Field(
        default=1.0, description="Reward of a second pass that is right."
    )
    penalty: Annotated[float, SECOND_PASS] = Field(
        default=-0.5, description="Reward of one that is not, of no scan, and of a leak."
    )
    minus_question_only: Annotated[bool, SECOND_PASS] = Field(
        default=False,
        description="Multiply the reward by the share of answers from the question alone that are "
        "not right: what the question gives away earns nothing.",
    )
    masks: Annotated[Literal["all", "answers"], LATER, SECOND_PASS, SCANS] = Field(
        default="all",
        description="What is masked in a scan: with answers, those alone; with all, also numbers "
        "that the figure's known facts do not state, and what is no language.",
    )
    named_by: Annotated[int, LATER, SECOND_PASS] = Field(
        default=1,
        ge=0,
        description="Where nobody knows the figure's facts: how many other scans of the group must "
        "name a number, for it to be read (0: none).",
    )
    moved_numbers: Annotated[bool, LATER, SECOND_PASS] = Field(
        default=True,
        description="Ask again from each scan that led to the answer, its numbers moved, and where "
        "the answer stays once more: then it did not come of them, and is a leak. One pass more "
        "for each.",
    )
    template: Annotated[str, SECOND_PASS, SCANS] = Field(
        default="scan_only", description="Prompt template of the second pass."
    )
    question_only_template: Annotated[str, SECOND_PASS, QUESTIONS] = Field(
        default="think", description="Prompt template of the pass without image and scan."
    )


class PenaltySection(Section):
    length_buffer: Annotated[float, Needs("reward.length")] = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of sampling.max_new_tokens over which the length penalty grows.",
    )
    repetition_ngram: Annotated[int, Needs("reward.repetition")] = Field(
        default=40, ge=2, description="Tokens in an n-gram of the repetition penalty."
    )
