"""What an evaluation's controls say of it, and what grading its answers again came to.

Both are read from the files beside its predictions (docs/evaluation.md, docs/grading.md); nothing
is counted here, but for intervals that an older version did not write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from visual_r1.evaluation.statistics import Interval, wilson
from visual_r1.storage import read_json

CONTROLS: Mapping[str, str] = {
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
class Control:
    """A control of `report.json`: shares from 0 to 1, and the difference to the greedy accuracy."""

    n: int
    accuracy: float
    accuracy_ci95: Interval
    paired: int
    outcomes: Mapping[str, float]
    difference: float
    difference_ci95: Interval
    p_value: float
    outcomes_ci95: Mapping[str, Interval] = field(default_factory=dict[str, Interval])

    def interval(self, outcome: str) -> Interval:
        """That of an outcome's share."""
        known = self.outcomes_ci95.get(outcome)
        return known or wilson(round(self.outcomes[outcome] * self.paired), self.paired)


@dataclass(frozen=True, slots=True)
class Seeing:
    """Seeing against thinking; the interval has no lower end where next to nothing is right."""

    value: float
    ci95: tuple[float | None, float]
    without: str
    n: int


@dataclass(frozen=True, slots=True)
class Controls:
    """All of an evaluation, by name."""

    by_name: Mapping[str, Control] = field(default_factory=dict[str, Control])
    seeing: Seeing | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """`correct` of `n`."""

    n: int
    correct: int
    value: float
    ci95: Interval


@dataclass(frozen=True, slots=True)
class Graded:
    """What graded answers come to: by pass, and of the k samples a problem."""

    passes: Mapping[str, Share]
    k: int = 0
    sampled_n: int = 0
    sampled_accuracy: float | None = None
    sampled_accuracy_ci95: Interval | None = None
    pass_at_k: float | None = None
    pass_at_k_ci95: Interval | None = None

    @property
    def shares(self) -> dict[str, tuple[int, float, Interval]]:
        """All shares by what they are of: of how many, the share, its interval."""
        found = {name: (one.n, one.value, one.ci95) for name, one in self.passes.items()}
        for name, value, interval in (
            ("samples", self.sampled_accuracy, self.sampled_accuracy_ci95),
            (f"pass@{self.k}", self.pass_at_k, self.pass_at_k_ci95),
        ):
            if value is not None and interval is not None:
                found[name] = self.sampled_n, value, interval
        return found


@dataclass(frozen=True, slots=True)
class Basis:
    """Of which answers, and by which grader."""

    source_digest: str
    rounding: str
    grader_version: str


@dataclass(frozen=True, slots=True)
class Kind:
    """In which pass a verdict changed, from what to what, and why."""

    name: str
    before: str
    after: str
    reason: str
    cause: str


@dataclass(frozen=True, slots=True)
class Change:
    """How often that was."""

    kind: Kind
    count: int


@dataclass(frozen=True, slots=True)
class Regraded:
    """Answers graded again: the stored verdicts, and those of another grader by rounding."""

    basis: Basis
    graded: int
    before: Graded
    after: Mapping[str, Graded]
    changes: Sequence[Change]

    @property
    def changed(self) -> int:
        """How many verdicts are others now."""
        return sum(one.count for one in self.changes)

    @property
    def rows(self) -> list[tuple[str, int, float, Interval, float, Interval]]:
        """What was graded, how many problems, the share that was stored, and the one of now, under
        the same rounding."""
        now = self.after[self.basis.rounding].shares
        found: list[tuple[str, int, float, Interval, float, Interval]] = []
        for name, (n, was, was_range) in self.before.shares.items():
            _, value, interval = now[name]
            found.append((name, n, was, was_range, value, interval))
        return found


_REGRADED = TypeAdapter(Regraded)


def regraded_in(folder: Path, predictions_digest: str | None) -> list[Regraded]:
    """What grading again left in the folder of an evaluation, the newest grader last.

    Records that are damaged, or of answers that have been asked anew since, are left out.
    """
    found: list[Regraded] = []
    for path in folder.glob("regraded-*.json"):
        try:
            one = read_json(path, _REGRADED)
        except (OSError, ValueError):
            continue
        if predictions_digest in (None, one.basis.source_digest):
            found.append(one)
    return sorted(found, key=lambda one: (len(one.basis.grader_version), one.basis.grader_version))
