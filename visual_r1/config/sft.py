"""Learning from responses that are there, in place of sampled ones."""

from typing import Annotated

from pydantic import Field

from visual_r1.config.section import LATER, Section


class SftSection(Section):
    """A supervised run (flows/sft_flow.py): the loss is cross entropy over the responses alone."""

    responses: str | None = Field(
        default=None,
        description="The column of the source that holds a response to each problem, as the policy "
        "should write it; meta.NAME for a field of its meta. It makes the run a supervised one, "
        "see docs/sft.md; flows/sft_flow.py takes `response` where nothing is said.",
    )
    any_form: Annotated[bool, LATER] = Field(
        default=False,
        description="Learn the responses as they stand, also where none of them has the form that "
        "the prompt template asks for, and worked solutions (meta.solution) without its tags.",
    )
