"""What decides the outcome of an evaluation: the one list, `Conditions` and `DECIDES`.

Who compares two evaluations, uses an answer again, or says what has changed goes by it. A setting
that changes what a model reads, how it writes or how that is graded is a field of `Conditions`, and
`DECIDES` says what of an evaluation depends on it; a test holds the two against each other.

A condition that a report of an earlier version does not hold is unknown: neither the same as
another nor different. Who knows more, because a run vouches for its own evaluations, says so.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from visual_r1.grading import Rounding

Parts = Literal["all", "sampled", "reading", "none"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which an evaluation was made: what two reports must share to be compared."""

    sampler_path: str
    model: str
    dataset_digest: str
    seed: int
    k: int
    temperature: float
    max_new_tokens: int
    template: str
    rounding: str
    grader_version: str
    blind: bool
    thinking: str = "default"
    split: str = "test"
    control_passes: tuple[str, ...] = ()
    reader: str = ""
    """A digest of what passes without the image are made with; empty where there is none of them,
    and in reports of earlier versions where it is the run's own."""
    decisions: str = ""
    """The digest of the decisions about labels that held, see `runs.labels`; empty for none."""
    template_digest: str = ""
    """Of the file of `template`, its system prompt and its tags with it; empty: unknown."""
    max_pixels: int = 0
    """Larger images were scaled down to so many pixels; 0: unknown."""

    @property
    def compared(self) -> Rounding:
        """`rounding` as the grader knows it."""
        return "rounded" if self.rounding == "rounded" else "exact"


@dataclass(frozen=True, slots=True)
class Decides:
    """What a condition is called where a user sets it, and which answers depend on it.

    `of` is all answers, the sampled ones, those of passes that read a template of their own, or
    none: then it says which passes there are, or by which gold answers they were graded. `unknown`
    is what stands in a report of a version that did not hold it; None where each does.
    """

    setting: str
    of: Parts = "all"
    unknown: str | int | None = None


DECIDES: Mapping[str, Decides] = {
    "sampler_path": Decides("the weights"),
    "model": Decides("model.name"),
    "dataset_digest": Decides("the dataset"),
    "seed": Decides("evaluation.seed", "sampled"),
    "k": Decides("evaluation.samples", "sampled"),
    "temperature": Decides("the samples' temperature", "sampled"),
    "max_new_tokens": Decides("sampling.max_new_tokens"),
    "template": Decides("prompt.template"),
    "rounding": Decides("reward.rounding"),
    "grader_version": Decides("the grader's version"),
    "blind": Decides("evaluation.blind", "none"),
    "thinking": Decides("model.thinking"),
    "split": Decides("the split"),
    "control_passes": Decides("evaluation.controls", "none"),
    "reader": Decides("the template of a pass without the image", "reading"),
    # It shows in the gold answer by which an answer was graded.
    "decisions": Decides("what is decided about labels (disputes.jsonl)", "none"),
    "template_digest": Decides("what prompt.template says", unknown=""),
    "max_pixels": Decides("model.max_pixels", unknown=0),
}

GREEDY: tuple[str, ...] = (
    *(name for name, one in DECIDES.items() if one.of == "all" and name != "sampler_path"),
    "decisions",
)
"""What a greedy answer and its grade depend on, but for the weights, which are compared."""

SAMPLED: tuple[str, ...] = (
    *GREEDY,
    *(name for name, one in DECIDES.items() if one.of == "sampled"),
)
"""The same of the samples."""


def is_unknown(name: str, value: object) -> bool:
    """Whether this value of a condition says that nobody wrote it down."""
    return DECIDES[name].unknown is not None and value == DECIDES[name].unknown


def differing(
    one: Conditions, other: Conditions, names: Collection[str], *, unknown: bool
) -> list[str]:
    """The conditions of `names` that are not the same in both.

    `unknown` says whether those that are not known of one of them, or of both, are among them: not
    where both are of one run, or of runs that were held against each other, which vouch for them.
    """
    found: list[str] = []
    for name in names:
        pair = getattr(one, name), getattr(other, name)
        is_open = any(is_unknown(name, value) for value in pair)
        if unknown if is_open else pair[0] != pair[1]:
            found.append(name)
    return found


def vouched(there: Conditions, wanted: Conditions) -> Conditions:
    """`there` with those of `wanted` where its own are unknown, and a run says they are the same.

    A run refuses to go on under another picture size or with a template that is not what it began
    with, and baselines lie in a folder that is named after both.
    """
    known: dict[str, Any] = {
        name: getattr(wanted, name) for name in DECIDES if is_unknown(name, getattr(there, name))
    }
    return replace(there, **known, reader=there.reader or wanted.reader)
