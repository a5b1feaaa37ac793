"""Whether a candidate is better than the current model: the rule, and the evidence for it.

Both answered the same test problems under the same conditions, greedy and with a blank image. The
candidate is promoted where

    the gain     of the paired problems is positive and exact McNemar gives p < 0.05: the test
                 behind the conclusion of a run's report, so one that says "rose" is promoted;
    the image    is what it comes from: accuracy without it did not rise, which is to say that it
                 has not gained by the same test, nor by as much as the accuracy with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visual_r1.errors import DataError
from visual_r1.evaluation.deciding import GREEDY, Conditions, differing
from visual_r1.evaluation.metrics import Report, read_report
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, REPORT_NAME, read_predictions
from visual_r1.evaluation.statistics import (
    Interval,
    Pairs,
    distinguishable,
    exact_mcnemar,
    paired_difference_ci,
)
from visual_r1.hashing import file_digest
from visual_r1.wording import p_value_in_words, percent, points, points_range


@dataclass(frozen=True, slots=True)
class Paired:
    """The same problems, answered by the current model (`before`) and the candidate (`after`)."""

    n: int
    before: float
    after: float
    delta: float
    delta_ci95: Interval
    p_value: float
    gained: int
    lost: int

    @classmethod
    def of(cls, pairs: Pairs) -> "Paired":
        """What was counted, with Newcombe's interval and the exact McNemar test."""
        return cls(
            n=pairs.n,
            before=pairs.before,
            after=pairs.after,
            delta=pairs.delta,
            delta_ci95=paired_difference_ci(pairs),
            p_value=exact_mcnemar(pairs.gained, pairs.lost),
            gained=pairs.gained,
            lost=pairs.lost,
        )

    @property
    def rose(self) -> bool:
        """Whether the candidate is distinguishably better."""
        return self.delta > 0 and distinguishable(self.p_value)

    def __str__(self) -> str:
        return (
            f"{percent(self.before)} to {percent(self.after)}, {points(self.delta)} points "
            f"{points_range(self.delta_ci95)}, {p_value_in_words(self.p_value)}, on {self.n} "
            "problems"
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a promotion rests on: against which model, how both did, and on which files.

    `digests` are of reports and predictions, `before` and `after`; `dataset_digest` and
    `grader_version` are those of both.
    """

    against: str
    accuracy: Paired
    blind: Paired | None
    dataset_digest: str
    grader_version: str
    conditions: Mapping[str, Any]
    digests: Mapping[str, str]

    @property
    def objections(self) -> list[str]:
        """Why the candidate is not to be promoted, a sentence each; none where it is."""
        found: list[str] = []
        if not self.accuracy.rose:
            found.append(f"accuracy has not risen beyond chance ({self.accuracy})")
        if self.blind is None:
            found.append("accuracy without the image was not measured (evaluation.blind)")
        elif self.blind.rose or 0 < self.accuracy.delta <= self.blind.delta:
            found.append(f"accuracy rose without the image as well ({self.blind})")
        return found


def comparable(there: Conditions, wanted: Conditions) -> bool:
    """Whether greedy answers under both conditions can be paired.

    What an earlier version did not write down was held against each other in the two runs, see
    `runs.folder.asks_alike`.
    """
    return not differing(there, wanted, GREEDY, unknown=False)


def weigh(before: Path, after: Path, against: str) -> Evidence:
    """The evidence of two evaluation folders; `against` says whose the first is.

    Raises `DataError` where one is damaged, or they were asked under different conditions or about
    different problems.
    """
    old, new = read_report(before), read_report(after)
    columns = ["id", "correct", "blind_correct"]
    was, now = (
        {row["id"]: row for row in read_predictions(folder, columns)} for folder in (before, after)
    )
    if not comparable(old.conditions, new.conditions) or was.keys() != now.keys():
        raise DataError(
            f"{before} and {after} were not asked about the same problems under the same "
            "conditions, so they cannot be compared: evaluate one of them again."
        )

    def paired(column: str) -> Pairs:
        rows = [(was[id][column], now[id][column]) for id in was]
        present = [(a, b) for a, b in rows if a is not None and b is not None]
        return Pairs.count([a for a, _ in present], [b for _, b in present])

    blind = paired("blind_correct")
    return Evidence(
        against=against,
        accuracy=Paired.of(paired("correct")),
        blind=Paired.of(blind) if blind.n else None,
        dataset_digest=new.conditions.dataset_digest,
        grader_version=new.conditions.grader_version,
        conditions={name: getattr(new.conditions, name) for name in GREEDY},
        digests={
            f"{when}/{name}": file_digest(folder / name)
            for when, folder in (("before", before), ("after", after))
            for name in (REPORT_NAME, PREDICTIONS_NAME)
        },
    )


def of_weights(
    reports: Mapping[str, Report], sampler_path: str, wanted: Conditions, problems: int
) -> str | None:
    """The name of an evaluation of those weights, with the blind control, that can be paired with
    one under `wanted` of so many problems."""
    return next(
        (
            name
            for name, report in reports.items()
            if report.conditions.sampler_path == sampler_path
            and report.conditions.blind
            and report.n + report.failed.get("greedy", 0) == problems
            and comparable(report.conditions, wanted)
        ),
        None,
    )


def free_name(reports: Mapping[str, Report], name: str, wanted: Conditions) -> str:
    """`name` for an evaluation under `wanted`; another where an older grader's has it.

    That one counts as done, so it would not be made again, and cannot be paired with a newer one.
    """
    there = reports.get(name)
    if there is None or there.conditions.grader_version == wanted.grader_version:
        return name
    return f"{name}-grader-{wanted.grader_version}"
