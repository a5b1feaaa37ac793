"""A report: what an evaluation found, counted from graded predictions.

What enters `n`. A problem counts when its greedy request was answered: right, wrong, truncated and
given up by the grader alike, the last three as not right. A request that failed on the way says
nothing about the policy: it leaves `n` and is counted in `failed`. The sampled and the blind pass
keep their own counts by the same rule.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from visual_r1.errors import DataError
from visual_r1.evaluation.statistics import Interval, mean_pass_at_k, wilson
from visual_r1.policy.second_pass import OUTCOMES, Outcome, SecondPass, outcome_of
from visual_r1.prices import NO_TOKENS, Tokens

REPORT_NAME = "report.json"

Verdict = Literal["right", "wrong", "gave_up"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One graded response.

    `verdict` is under the rounding of the run; `right_exact` and `right_rounded` are the two ways
    to compare, which are looked at for the greedy pass alone (else None).
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


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a policy answered to one problem; None or empty where the request failed or was not
    made, with the failures' messages by pass in `failures`.

    `second` is the second pass of the greedy answer's scan, `question_only` whether the answer
    without image and scan is right; both are there where the run's reward has a second pass.
    `spent` are the tokens of all its requests that were answered."""

    id: str
    family: str
    greedy: Answer | None
    blind: Answer | None
    sampled: tuple[Answer, ...]
    failures: Mapping[str, str]
    second: SecondPass | None = None
    question_only: bool | None = None
    spent: Tokens = NO_TOKENS

    @property
    def outcome(self) -> Outcome | None:
        """With and without which view the greedy answer is right; None without a second pass."""
        if self.greedy is None or self.second is None:
            return None
        return outcome_of(self.greedy.right, self.second.right)

    @property
    def sampled_correct(self) -> int:
        """How many of the samples are right."""
        return sum(answer.right for answer in self.sampled)


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
    def of(cls, answers: Iterable[Answer], holds: Callable[[Answer], bool]) -> "Rate":
        """The share of `answers` for which `holds` is true."""
        outcomes = [holds(answer) for answer in answers]
        return cls(sum(outcomes), len(outcomes))


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
    """The part of a report that one family of problems makes; shares from 0 to 1."""

    n: int
    correct: int
    accuracy: float
    accuracy_ci95: Interval
    pass_at_k: float
    sampled_accuracy: float
    blind_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """An evaluation as `report.json` holds it. Shares go from 0 to 1; intervals are [low, high].

    `pass_at` maps m to the unbiased pass@m for m = 1, 2, 4 ... k, from the k samples of each
    problem; `pass_at_k` is its last value and `sampled_accuracy` its first. `blind_accuracy` is
    None where the blind control was switched off, `second_pass` where the run's reward has none.
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
    second_pass: ScanFigures | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of `report.json`: the conditions stand flat beside the results, and
        `pass_at_8` (with the run's k) stands beside `pass_at_k`, and where there was a second pass
        `scan_only_accuracy` and `question_only_accuracy` beside `blind_accuracy`."""
        flat = asdict(self)
        flat.update(flat.pop("conditions"))
        flat[f"pass_at_{self.k}"] = self.pass_at_k
        if self.second_pass is not None:
            flat["scan_only_accuracy"] = self.second_pass.scan_only_accuracy
            flat["question_only_accuracy"] = self.second_pass.question_only_accuracy
        return flat


def read_report(folder: Path) -> Report:
    """The report of the evaluation in `folder`; `DataError` where it is missing or damaged."""
    path = folder / REPORT_NAME
    try:
        flat = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        named = [name for name in _names(Report) if name not in ("conditions", "second_pass")]
        values = _typed({name: flat[name] for name in named})
        if flat.get("second_pass") is not None:
            values["second_pass"] = ScanFigures(**_typed(flat["second_pass"]))
        values["by_family"] = {
            name: FamilyResult(**_typed(found)) for name, found in flat["by_family"].items()
        }
        conditions = Conditions(**{name: flat[name] for name in _names(Conditions)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not the report of a complete evaluation ({type(error).__name__}: {error}): "
            f"remove the folder {folder} and evaluate again."
        ) from error
    return Report(**values, conditions=conditions)


def _names(kind: type[Report] | type[Conditions]) -> list[str]:
    return [field.name for field in fields(kind)]


def _typed(found: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the intervals they were."""
    return {
        name: tuple(value) if name.endswith("ci95") and value is not None else value
        for name, value in found.items()
    }


def measure(predictions: Sequence[Prediction], conditions: Conditions) -> Report:
    """Count `predictions` into a report."""
    greedy = [p.greedy for p in predictions if p.greedy is not None]
    accuracy = Rate.of(greedy, lambda answer: answer.right)
    blind = _blind_rate(predictions)
    counts = _sample_counts(predictions)
    k = conditions.k
    last, first = mean_pass_at_k(counts, k), mean_pass_at_k(counts, 1)
    return Report(
        n=accuracy.n,
        correct=accuracy.correct,
        accuracy=accuracy.value,
        accuracy_ci95=accuracy.ci95,
        accuracy_exact=Rate.of(greedy, lambda answer: answer.right_exact is True).value,
        accuracy_rounded=Rate.of(greedy, lambda answer: answer.right_rounded is True).value,
        format_rate=Rate.of(greedy, lambda answer: answer.format_ok).value,
        visual_grounding_rate=Rate.of(greedy, lambda answer: answer.grounded).value,
        k=k,
        pass_at_k=last.value,
        pass_at_k_ci95=last.ci95,
        pass_at={str(m): mean_pass_at_k(counts, m).value for m in _powers_up_to(k)},
        sampled_n=len(counts),
        sampled_accuracy=first.value,
        sampled_accuracy_ci95=first.ci95,
        blind_n=blind.n,
        blind_accuracy=blind.value if conditions.blind else None,
        blind_accuracy_ci95=blind.ci95 if conditions.blind else None,
        mean_response_tokens=math.fsum(a.tokens for a in greedy) / max(len(greedy), 1),
        truncated=sum(answer.truncated for answer in greedy),
        gave_up=sum(answer.verdict == "gave_up" for answer in greedy),
        failed=_failures(predictions),
        second_pass=_scan_figures(predictions),
        by_family=_by_family(predictions, conditions),
        conditions=conditions,
    )


def _blind_rate(predictions: Sequence[Prediction]) -> Rate:
    return Rate.of((p.blind for p in predictions if p.blind is not None), lambda a: a.right)


def _scan_figures(predictions: Sequence[Prediction]) -> ScanFigures | None:
    made = [(p.outcome, p.second) for p in predictions if p.outcome and p.second is not None]
    if not made:
        return None
    seconds = [second for _, second in made]
    scans = [second.scan for second in seconds]
    known = [p.question_only for p in predictions if p.question_only is not None]
    right, without_scan = (
        Rate(sum(s.right for s in seconds), len(made)),
        Rate(sum(known), len(known)),
    )
    return ScanFigures(
        n=len(made),
        scan_only_accuracy=right.value,
        scan_only_accuracy_ci95=right.ci95,
        question_only_n=without_scan.n,
        question_only_accuracy=without_scan.value,
        question_only_accuracy_ci95=without_scan.ci95,
        outcomes={name: sum(one == name for one, _ in made) / len(made) for name in OUTCOMES},
        scans_missing=sum(scan is None for scan in scans) / len(made),
        scans_masked=sum(scan is not None and scan.masked > 0 for scan in scans) / len(made),
        scans_with_answer=sum(scan is not None and scan.held_answer for scan in scans) / len(made),
        leaks=sum(second.verdict == "leak" for second in seconds) / len(made),
    )


def _sample_counts(predictions: Sequence[Prediction]) -> list[tuple[int, int]]:
    """(samples, right ones) of each problem whose samples came."""
    return [(len(p.sampled), p.sampled_correct) for p in predictions if p.sampled]


def _powers_up_to(k: int) -> list[int]:
    """1, 2, 4 ... and k itself."""
    return sorted({2**i for i in range(k.bit_length())} | {k})


def _failures(predictions: Sequence[Prediction]) -> dict[str, int]:
    """How many requests failed, by pass; those of the second pass where there are any."""
    always = ("greedy", "sampled", "blind")
    counts = Counter(name for prediction in predictions for name in prediction.failures)
    return {name: counts[name] for name in (*always, *sorted(counts.keys() - set(always)))}


def _by_family(
    predictions: Sequence[Prediction], conditions: Conditions
) -> dict[str, FamilyResult]:
    families: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        families.setdefault(prediction.family, []).append(prediction)
    return {name: _family(families[name], conditions) for name in sorted(families)}


def _family(members: Sequence[Prediction], conditions: Conditions) -> FamilyResult:
    greedy = Rate.of((p.greedy for p in members if p.greedy is not None), lambda a: a.right)
    counts = _sample_counts(members)
    return FamilyResult(
        n=greedy.n,
        correct=greedy.correct,
        accuracy=greedy.value,
        accuracy_ci95=greedy.ci95,
        pass_at_k=mean_pass_at_k(counts, conditions.k).value,
        sampled_accuracy=mean_pass_at_k(counts, 1).value,
        blind_accuracy=_blind_rate(members).value if conditions.blind else None,
    )
