"""What the second passes of a step are described by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visual_r1.policy.policy import RolloutGroup
from visual_r1.policy.second_pass import OUTCOMES, Outcome


@dataclass(frozen=True, slots=True)
class SecondPasses:
    """The second passes of a step. Shares and accuracies are over the samples that came back.

    `scans_masked` is the share of samples in whose scan something was masked, `scans_with_answer`
    of those whose scan held an answer, gold or the response's own, masked or not; `leaks` and
    `scans_missing` are the shares that were wrong without being asked. `outcomes` are the shares of
    both, image_only, scan_only and neither. `question_only_accuracy` is that of the answers without
    image and scan, None where there were none.
    """

    accuracy: float | None
    scans_missing: float | None
    scans_masked: float | None
    scans_with_answer: float | None
    leaks: float | None
    gave_up: int
    outcomes: Mapping[Outcome, float | None]
    question_only_accuracy: float | None
    prompt_tokens: int
    sampled_tokens: int

    def row(self) -> dict[str, float | int | None]:
        """The part of a row of metrics.jsonl that a run without a second pass does not have."""
        return {
            "second_pass_accuracy": self.accuracy,
            "scans_missing": self.scans_missing,
            "scans_masked": self.scans_masked,
            "scans_with_answer": self.scans_with_answer,
            "leaks": self.leaks,
            "second_pass_gave_up": self.gave_up,
            **{f"outcome_{name}": share for name, share in self.outcomes.items()},
            "question_only_accuracy": self.question_only_accuracy,
            "second_pass_prompt_tokens": self.prompt_tokens,
            "second_pass_tokens": self.sampled_tokens,
        }


def second_passes(groups: Sequence[RolloutGroup]) -> SecondPasses | None:
    """Of the samples that came back; None where the run has no second pass."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    made = [rollout.second for rollout in rollouts if rollout.second is not None]
    if not made:
        return None
    scans = [second.scan for second in made]
    outcomes = [rollout.outcome for rollout in rollouts]
    known = [right for group in groups for right in group.question_only]
    return SecondPasses(
        accuracy=_share([second.right for second in made]),
        scans_missing=_share([scan is None for scan in scans]),
        scans_masked=_share([scan is not None and scan.masked > 0 for scan in scans]),
        scans_with_answer=_share([scan is not None and scan.held_answer for scan in scans]),
        leaks=_share([second.verdict == "leak" for second in made]),
        gave_up=sum(second.verdict == "gave_up" for second in made),
        outcomes={name: _share([one == name for one in outcomes]) for name in OUTCOMES},
        question_only_accuracy=_share(known),
        prompt_tokens=sum(second.prompt_tokens for second in made),
        sampled_tokens=sum(second.tokens for second in made),
    )


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None
