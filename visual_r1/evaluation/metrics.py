"""A report: what an evaluation found, counted from graded predictions.

What enters `n`. A problem counts when its greedy request was answered: right, wrong, truncated and
given up by the grader alike, the last three as not right. A request that failed on the way says
nothing about the policy: it leaves `n` and is counted in `failed`. The sampled and the blind pass
keep their own counts by the same rule.

`evaluations/<name>/report.json` in a run's folder is written last: its presence means that the
evaluation is complete.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter

from visual_r1.errors import DataError
from visual_r1.evaluation.clustered import Estimate, mean_share
from visual_r1.evaluation.controls import Controls, count_controls
from visual_r1.evaluation.deciding import Conditions
from visual_r1.evaluation.prediction import Prediction
from visual_r1.evaluation.predictions import DIGEST, PREDICTIONS_NAME, REPORT_NAME
from visual_r1.evaluation.samples import majority, mean_pass_at_k
from visual_r1.evaluation.slices import BY, NOTHING_KNOWN, Known, in_order
from visual_r1.evaluation.statistics import Interval, wilson
from visual_r1.hashing import file_digest
from visual_r1.policy.second_pass import OUTCOMES
from visual_r1.prices import NO_PRICES, Prices, total
from visual_r1.printing import open_logger
from visual_r1.storage import flat_in_the_file, read_json, write_json

logger = open_logger(__name__)


@dataclass(frozen=True, slots=True)
class Spending:
    """What an evaluation took: tokens, and their cost in US dollars where prices are known.

    None in a report of a version that did not count it.
    """

    tokens_prefill: float | None = None
    tokens_sampled: float | None = None
    cost_usd: float | None = None
    tokens_cached: float | None = None

    def __add__(self, other: "Spending") -> "Spending":
        """Both together; not known where one of them is not."""
        parts = [
            None if one is None or more is None else one + more
            for one, more in zip(astuple(self), astuple(other), strict=True)
        ]
        return Spending(*parts)


@dataclass(frozen=True, slots=True)
class ScanFigures:
    """What the descriptions are worth: the second passes of the greedy answers, n of them.

    `outcomes` are the shares of both, image_only, scan_only and neither; `leaks` and
    `scans_missing` are shares that count as wrong without having been asked.
    """

    n: int
    scan_only_accuracy: float
    scan_only_accuracy_ci95: Interval
    question_only_n: int
    question_only_accuracy: float
    question_only_accuracy_ci95: Interval
    outcomes: Mapping[str, float]
    scans_missing: float
    scans_masked: float
    scans_with_answer: float
    leaks: float


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """The part of a report that one family of problems makes, or another group of them; shares from
    0 to 1."""

    n: int
    correct: int
    accuracy: float
    accuracy_ci95: Interval
    pass_at_k: float
    sampled_accuracy: float
    blind_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `n` answers, as a share from 0 to 1 with Wilson's interval; 0 where n is 0."""

    count: int
    n: int
    value: float
    ci95: Interval

    @classmethod
    def of(cls, holds: Iterable[bool]) -> "Share":
        """The share of what is true in `holds`."""
        rate = Rate.of(holds)
        return cls(rate.correct, rate.n, rate.value, rate.ci95)


@dataclass(frozen=True, slots=True)
class Report:
    """An evaluation as `report.json` holds it. Shares go from 0 to 1; intervals are [low, high].

    `pass_at` maps m to the unbiased pass@m for m = 1, 2, 4 ... k, from the k samples of each
    problem; `pass_at_k` is its last value and `sampled_accuracy`, which is avg@k, its first.
    `majority_at_k` is maj@k, None in a report of a version that did not count it; then `rates` and
    `slices` are empty as well. `rates` are the shares of greedy answers in the form that was asked
    for, with words of the figure, cut off, and given up by the grader. `slices` are the groups of
    `slices.BY` other than families, by their names; `difficulty_from` says who says how hard a
    problem is. `blind_accuracy` is
    None where the blind control was switched off, `second_pass` where the run's reward has none.
    `taken_from` names the runs whose answers are in it, where not all were asked for here; then
    `spending` is what was paid here. `shared_as` is the digest of all that answers of the base
    model depend on, see `runs.baselines`; None where not all of them are known to be of that.
    """

    n: int
    correct: int
    accuracy: float
    accuracy_ci95: Interval
    accuracy_exact: float
    accuracy_rounded: float
    format_rate: float
    visual_grounding_rate: float
    k: int
    pass_at_k: float
    pass_at_k_ci95: Interval
    pass_at: Mapping[str, float]
    sampled_n: int
    sampled_accuracy: float
    sampled_accuracy_ci95: Interval
    blind_n: int
    blind_accuracy: float | None
    blind_accuracy_ci95: Interval | None
    mean_response_tokens: float
    truncated: int
    gave_up: int
    failed: Mapping[str, int]
    by_family: Mapping[str, FamilyResult]
    conditions: Conditions
    suite: str | None = None
    """The named benchmark whose problems these are, see `visual_r1.suites`."""
    second_pass: ScanFigures | None = None
    spending: Spending = Spending()
    taken_from: str | None = None
    shared_as: str | None = None
    majority_at_k: float | None = None
    majority_at_k_ci95: Interval | None = None
    rates: Mapping[str, Share] = field(default_factory=dict[str, Share])
    slices: Mapping[str, Mapping[str, FamilyResult]] = field(
        default_factory=dict[str, Mapping[str, FamilyResult]]
    )
    difficulty_from: str = ""
    controls: Controls | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of `report.json`.

        Conditions and spending stand flat beside the results, so do `avg_at_8`, `pass_at_8` and
        `majority_at_8` (with the run's k) beside what they repeat, and where there was a second
        pass `scan_only_accuracy` and `question_only_accuracy` beside `blind_accuracy`.
        """
        flat = asdict(self)
        spending = flat.pop("spending")
        flat.update(flat.pop("conditions"))
        flat[f"avg_at_{self.k}"] = self.sampled_accuracy
        flat[f"pass_at_{self.k}"] = self.pass_at_k
        flat[f"majority_at_{self.k}"] = self.majority_at_k
        if self.second_pass is not None:
            flat["scan_only_accuracy"] = self.second_pass.scan_only_accuracy
            flat["question_only_accuracy"] = self.second_pass.question_only_accuracy
        return flat | spending


_STORED = TypeAdapter(Annotated[Report, flat_in_the_file("conditions", "spending")])


def write_report(folder: Path, report: Report) -> None:
    """Write the report of the evaluation in `folder`, which is complete with it.

    It vouches for the predictions that are there.
    """
    predictions = folder / PREDICTIONS_NAME
    digest = {DIGEST: file_digest(predictions)} if predictions.exists() else {}
    write_json(folder / REPORT_NAME, report.to_json() | digest)


def read_report(folder: Path) -> Report:
    """The report of the evaluation in `folder`; `DataError` where it is missing or damaged."""
    path = folder / REPORT_NAME
    try:
        return read_json(path, _STORED)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not the report of a complete evaluation ({type(error).__name__}: {error}): "
            f"remove the folder {folder} and evaluate again."
        ) from error


def evaluation_folder(run_dir: Path, name: str) -> Path:
    """Where the evaluation `name` of a run is kept."""
    return run_dir / "evaluations" / name


def evaluation_names(run_dir: Path) -> list[str]:
    """The complete evaluations of a run, in alphabetical order."""
    return sorted(path.parent.name for path in run_dir.glob(f"evaluations/*/{REPORT_NAME}"))


def read_reports(run_dir: Path) -> dict[str, Report]:
    """The reports of a run's complete evaluations by name, in alphabetical order.

    One that is damaged is left out, with a warning: what needs it reads it by its name.
    """
    found: dict[str, Report] = {}
    for name in evaluation_names(run_dir):
        try:
            found[name] = read_report(evaluation_folder(run_dir, name))
        except DataError as error:
            logger.warning("%s It is left out.", error)
    return found


@dataclass(frozen=True, slots=True)
class Rate:
    """`correct` of `n`, with Wilson's 95 % interval; `value` is 0 where n is 0."""

    correct: int
    n: int

    @property
    def value(self) -> float:
        return self.correct / self.n if self.n else 0.0

    @property
    def ci95(self) -> Interval:
        return wilson(self.correct, self.n)

    @classmethod
    def of(cls, holds: Iterable[bool]) -> "Rate":
        """The rate of what is true in `holds`."""
        found = list(holds)
        return cls(sum(found), len(found))


def measure(
    predictions: Sequence[Prediction],
    conditions: Conditions,
    prices: Prices = NO_PRICES,
    known: Known = NOTHING_KNOWN,
) -> Report:
    """Count `predictions` into a report, and what they took at `prices`.

    `known` is what they are told apart by besides families, see `slices.known_in`.
    """
    greedy = [made.greedy for made in predictions if made.greedy is not None]
    accuracy = Rate.of(one.right for one in greedy)
    voted = _majority(predictions, conditions)
    blind = _blind_rate(predictions)
    samples = _sample_counts(predictions)
    k = conditions.k
    powers = sorted({2**i for i in range(k.bit_length())} | {k} - {0})  # 1, 2, 4 ... and k itself
    pass_at = {m: mean_pass_at_k(samples, m) for m in powers}
    nothing = mean_pass_at_k([], 1)
    # Those of the second pass are named where there are any, these always.
    always = ("greedy", "sampled", "blind")
    failed = Counter(name for made in predictions for name in made.failures)
    spent = total(made.spent for made in predictions)
    families = {made.id: made.family for made in predictions}
    return Report(
        n=accuracy.n,
        correct=accuracy.correct,
        accuracy=accuracy.value,
        accuracy_ci95=accuracy.ci95,
        accuracy_exact=Rate.of(one.right_exact is True for one in greedy).value,
        accuracy_rounded=Rate.of(one.right_rounded is True for one in greedy).value,
        format_rate=Rate.of(one.format_ok for one in greedy).value,
        visual_grounding_rate=Rate.of(one.grounded for one in greedy).value,
        k=k,
        pass_at_k=pass_at.get(k, nothing).value,
        pass_at_k_ci95=pass_at.get(k, nothing).ci95,
        pass_at={str(m): found.value for m, found in pass_at.items()},
        sampled_n=len(samples),
        sampled_accuracy=pass_at.get(1, nothing).value,
        sampled_accuracy_ci95=pass_at.get(1, nothing).ci95,
        blind_n=blind.n,
        blind_accuracy=blind.value if conditions.blind else None,
        blind_accuracy_ci95=blind.ci95 if conditions.blind else None,
        mean_response_tokens=math.fsum(one.tokens for one in greedy) / max(len(greedy), 1),
        truncated=sum(one.truncated for one in greedy),
        gave_up=sum(one.verdict == "gave_up" for one in greedy),
        failed={name: failed[name] for name in (*always, *sorted(failed.keys() - set(always)))},
        by_family=_grouped(predictions, conditions, "family", families),
        conditions=conditions,
        second_pass=_scan_figures(predictions),
        controls=count_controls(predictions),
        spending=Spending(spent.prefill, spent.sample, prices.cost(spent), spent.cached),
        majority_at_k=voted.value if voted else None,
        majority_at_k_ci95=voted.ci95 if voted else None,
        rates={
            "format": Share.of(one.format_ok for one in greedy),
            "visual_grounding": Share.of(one.grounded for one in greedy),
            "truncated": Share.of(one.truncated for one in greedy),
            "gave_up": Share.of(one.verdict == "gave_up" for one in greedy),
        },
        slices={
            by: _grouped(predictions, conditions, by, groups)
            for by in BY
            if by != "family" and (groups := known.groups(by))
        },
        difficulty_from=known.difficulty_from,
    )


def _majority(predictions: Sequence[Prediction], conditions: Conditions) -> Estimate | None:
    """maj@k with its interval; None where nothing was sampled."""
    voted = [
        majority([(sample.extracted, sample.right) for sample in made.sampled], conditions.compared)
        for made in predictions
        if made.sampled
    ]
    return mean_share(voted) if voted else None


def _blind_rate(predictions: Sequence[Prediction]) -> Rate:
    return Rate.of(made.blind.right for made in predictions if made.blind is not None)


def _sample_counts(predictions: Sequence[Prediction]) -> list[tuple[int, int]]:
    """(samples, right ones) of each problem whose samples came."""
    return [(len(made.sampled), made.sampled_correct) for made in predictions if made.sampled]


def _grouped(
    predictions: Sequence[Prediction], conditions: Conditions, by: str, groups: Mapping[str, str]
) -> dict[str, FamilyResult]:
    """What each group of problems comes to; `groups` names the group of each id."""
    members: dict[str, list[Prediction]] = {}
    for made in predictions:
        if made.id in groups:
            members.setdefault(groups[made.id], []).append(made)
    found: dict[str, FamilyResult] = {}
    for name in in_order(by, members):
        of_group = members[name]
        greedy = Rate.of(made.greedy.right for made in of_group if made.greedy is not None)
        samples = _sample_counts(of_group)
        found[name] = FamilyResult(
            n=greedy.n,
            correct=greedy.correct,
            accuracy=greedy.value,
            accuracy_ci95=greedy.ci95,
            pass_at_k=mean_pass_at_k(samples, conditions.k).value,
            sampled_accuracy=mean_pass_at_k(samples, 1).value,
            blind_accuracy=_blind_rate(of_group).value if conditions.blind else None,
        )
    return found


def _scan_figures(predictions: Sequence[Prediction]) -> ScanFigures | None:
    outcomes = [made.outcome for made in predictions if made.outcome is not None]
    seconds = [made.second for made in predictions if made.outcome and made.second is not None]
    if not seconds:
        return None
    scans = [second.scan for second in seconds]
    right = Rate.of(second.right for second in seconds)
    unseen = Rate.of(made.question_only for made in predictions if made.question_only is not None)
    return ScanFigures(
        n=right.n,
        scan_only_accuracy=right.value,
        scan_only_accuracy_ci95=right.ci95,
        question_only_n=unseen.n,
        question_only_accuracy=unseen.value,
        question_only_accuracy_ci95=unseen.ci95,
        outcomes={name: outcomes.count(name) / right.n for name in OUTCOMES},
        scans_missing=Rate.of(scan is None for scan in scans).value,
        scans_masked=Rate.of(scan is not None and scan.masked > 0 for scan in scans).value,
        scans_with_answer=Rate.of(scan is not None and scan.held_answer for scan in scans).value,
        leaks=Rate.of(second.verdict == "leak" for second in seconds).value,
    )
