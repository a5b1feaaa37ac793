"""What a policy answered to a problem, in each of the passes of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from visual_r1.grading import Verdict
from visual_r1.policy.second_pass import Outcome, SecondPass, outcome_of
from visual_r1.prices import NO_TOKENS, Tokens

Pass = Literal[
    "greedy",
    "blind",
    "other_image",
    "masked_image",
    "question_only",
    "described",
    "sampled",
    "scan_only",
]
PASSES: tuple[Pass, ...] = get_args(Pass)

Roundings = tuple[bool, bool]
"""Whether an answer is right under the exact and under the rounded comparison."""


@dataclass(frozen=True, slots=True)
class GradedResponse:
    """One response and its grade.

    `verdict` is under the rounding of the run; `right_exact` and `right_rounded` are the two ways
    to compare, None where a file of an older version does not say. `tokens` is how many tokens were
    sampled.
    """

    response: str
    extracted: str | None
    verdict: Verdict
    reason: str
    right_exact: bool | None
    right_rounded: bool | None
    format_ok: bool
    grounded: bool
    truncated: bool
    tokens: int

    @property
    def right(self) -> bool:
        """Whether the answer counts, under the rounding of the run."""
        return self.verdict == "right"

    @property
    def roundings(self) -> Roundings | None:
        """Both comparisons; None where that is not known."""
        if self.right_exact is None or self.right_rounded is None:
            return None
        return self.right_exact, self.right_rounded


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a policy answered to one problem; None or empty where the request failed or was not
    made, with the failures' messages by pass in `failures`.

    `second` is the second pass of a scan, the greedy answer's or, where the run's template asks for
    none, that of `described`; `question_only` is whether the answer without image and scan is
    right, whose text files of older versions do not have. Both are there where the run's reward has
    a second pass, or the evaluation asked for them. The two pairs are whether they are right under
    the exact and the rounded comparison. `spent` are the tokens of all its requests that were
    answered.
    """

    id: str
    family: str
    greedy: GradedResponse | None
    blind: GradedResponse | None
    sampled: tuple[GradedResponse, ...]
    failures: Mapping[str, str]
    second: SecondPass | None = None
    question_only: bool | None = None
    spent: Tokens = NO_TOKENS
    other_image: GradedResponse | None = None
    masked_image: GradedResponse | None = None
    described: GradedResponse | None = None
    question_only_response: str | None = None
    question_only_roundings: Roundings | None = None
    scan_only_roundings: Roundings | None = None

    @property
    def outcome(self) -> Outcome | None:
        """With and without which view the greedy answer is right; None without a second pass."""
        if self.greedy is None or self.second is None:
            return None
        return outcome_of(self.greedy.right, self.second.right)

    def has(self, name: Pass) -> bool:
        """Whether the request of this pass was answered, or refused for good."""
        match name:
            case "sampled":
                there = bool(self.sampled)
            case "scan_only":
                there = self.second is not None
            case _:
                there = getattr(self, name) is not None
        return there or name in self.failures

    @property
    def scan_source(self) -> str | None:
        """The response whose scan the second pass read."""
        found = self.described or self.greedy
        return found.response if found else None

    def right_in(self, name: Pass) -> bool | None:
        """Whether the one answer of a pass is right; None where there is none."""
        match name:
            case "scan_only":
                return None if self.second is None else self.second.right
            case "question_only":
                return self.question_only
            case "sampled":
                return None
            case _:
                found: GradedResponse | None = getattr(self, name)
                return None if found is None else found.right

    def roundings_in(self, name: Pass) -> Sequence[Roundings]:
        """As `right_in`, of all answers of a pass and under both comparisons, where that is
        known."""
        match name:
            case "scan_only":
                return [pair for pair in (self.scan_only_roundings,) if pair]
            case "question_only":
                return [pair for pair in (self.question_only_roundings,) if pair]
            case "sampled":
                answers: Sequence[GradedResponse] = self.sampled
            case _:
                found: GradedResponse | None = getattr(self, name)
                answers = () if found is None else (found,)
        return [pair for one in answers if (pair := one.roundings)]

    @property
    def sampled_correct(self) -> int:
        """How many of the samples are right."""
        return sum(sample.right for sample in self.sampled)
