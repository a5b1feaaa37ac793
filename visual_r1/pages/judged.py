"""What an evaluation's controls say of it, and what grading its answers again came to, in words.

Both are counted elsewhere (`evaluation.controls`, `regrade`), and read as they were written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from visual_r1.config.judging import Control
from visual_r1.errors import DataError, VisualR1Error
from visual_r1.evaluation.statistics import Interval
from visual_r1.runs.decisions import read_decisions

if TYPE_CHECKING:
    from visual_r1.regrade.changes import Figures
    from visual_r1.regrade.files import RegradedFile

CONTROLS: Mapping[Control, str] = {
    "blind": "image blanked",
    "other_image": "another image",
    "masked_image": "image, 60% masked",
    "question_only": "question alone",
    "scan_only": "its own scan alone",
}
OUTCOMES: Mapping[str, str] = {
    "both": "right both times",
    "image_only": "with the image only",
    "without_only": "without it only",
    "neither": "neither time",
}


@dataclass(frozen=True, slots=True)
class GradedAgain:
    """The record of a grader's work on answers that were stored."""

    record: "RegradedFile"
    has_others: bool = False
    """Whether the decisions about labels are others by now than those it was graded by."""

    @property
    def changed(self) -> int:
        """How many verdicts are others now."""
        return sum(one.count for one in self.record.changes)

    @property
    def rows(self) -> list[tuple[str, int, float, Interval, float, Interval]]:
        """What was graded, how many problems, the share that was stored, and the one of now, under
        the same rounding."""
        now = _shares(self.record.after[self.record.basis.rounding])
        return [(name, *was, *now[name][1:]) for name, was in _shares(self.record.before).items()]


def _has_others(folder: Path, dataset_digest: str, record: "RegradedFile") -> bool:
    """See `GradedAgain`; False where nobody can say, for the dataset went or came since."""
    from visual_r1.regrade.truths import Truths

    output_dir = folder.absolute().parents[3]
    try:
        decisions = read_decisions(output_dir)
        if not any(one.changes_label for one in decisions.in_force.values()):
            return record.basis.decisions != ""
        held = Truths(output_dir, decisions).of(dataset_digest)
    except VisualR1Error:
        return False
    return held.digest == record.basis.dataset and held.decisions_digest != record.basis.decisions


def _shares(figures: "Figures") -> dict[str, tuple[int, float, Interval]]:
    """All shares by what they are of: of how many, the share, its interval."""
    found = {name: (one.n, one.value, one.ci95) for name, one in figures.passes.items()}
    for name, value, interval in (
        ("samples", figures.sampled_accuracy, figures.sampled_accuracy_ci95),
        (f"pass@{figures.k}", figures.pass_at_k, figures.pass_at_k_ci95),
    ):
        if value is not None and interval is not None:
            found[name] = figures.sampled_n, value, interval
    return found


def graded_again(
    folder: Path, predictions_digest: str | None, dataset_digest: str
) -> list[GradedAgain]:
    """What grading again left in the folder of an evaluation, the newest grader last.

    `dataset_digest` is of the problems that were asked. Records that are damaged, or of answers
    that have been asked anew since, are left out.
    """
    results = list(folder.glob("regraded-*.parquet"))
    if not results:
        return []
    # With scipy, for the figures that it counts: most evaluations were graded once.
    from visual_r1.regrade.files import read_record

    found: list[GradedAgain] = []
    for result in results:
        try:
            record = read_record(result)
        except DataError:
            continue
        if predictions_digest in (None, record.basis.source_digest):
            found.append(GradedAgain(record, _has_others(folder, dataset_digest, record)))

    def age(one: GradedAgain) -> tuple[int, str]:
        version = one.record.basis.grader_version
        return len(version), version

    return sorted(found, key=age)
