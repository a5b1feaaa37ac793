"""Before against after: two evaluations of the same problems, compared as pairs.

What a run has cost: its steps, validations and evaluations, as far as prices were set.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import REPORT_NAME, Report, read_report
from visual_r1.evaluation.predictions import read_predictions
from visual_r1.evaluation.statistics import (
    Interval,
    Pairs,
    distinguishable,
    exact_mcnemar,
    paired_difference_ci,
    smallest_detectable,
    wilson,
)
from visual_r1.runs.journal import Row, evaluation_names, read_metrics, read_object
from visual_r1.runs.validations import Validations
from visual_r1.storage import write_json
from visual_r1.wording import p_value_in_words, percent, points_range


@dataclass(frozen=True, slots=True)
class Cost:
    """In US dollars. It is not `whole` where a step, validation or evaluation has no cost."""

    usd: float
    whole: bool

    def __str__(self) -> str:
        return f"{'about' if self.whole else 'at least'} ${self.usd:,.2f}"


def cost_of_run(run_dir: Path) -> Cost | None:
    """The sum over metrics.jsonl, validation.jsonl and evaluations; None where all have none."""
    rows = [*read_metrics(run_dir), *_reports(run_dir)]
    found: list[float | None] = [row.get("cost_usd") for row in rows]
    found += [row.cost_usd for row in Validations(run_dir).rows()]
    costs = [cost for cost in found if cost is not None]
    return Cost(sum(costs), whole=len(costs) == len(found)) if costs else None


def _reports(run_dir: Path) -> Iterator[Row]:
    for name in evaluation_names(run_dir):
        report = read_object(run_dir / "evaluations" / name / REPORT_NAME)
        if report is not None:
            yield report


FILE_NAME = "summary.json"
BASELINE, FINAL = "baseline", "final"

# Two evaluations are comparable when these agree.
_SHARED = (
    "model", "dataset_digest", "seed", "k", "temperature", "max_new_tokens", "template", "rounding",
    "grader_version",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """One yes-or-no outcome of the same problems, before and after."""

    pairs: Pairs

    @property
    def delta_ci95(self) -> Interval:
        """The 95 % interval of the difference (Newcombe's method 10)."""
        return paired_difference_ci(self.pairs)

    @property
    def p_value(self) -> float:
        """Exact McNemar."""
        return exact_mcnemar(self.pairs.gained, self.pairs.lost)

    def to_json(self) -> dict[str, Any]:
        """All of it as numbers, with the names of `summary.json`."""
        pairs = self.pairs
        return {
            "baseline": pairs.before,
            "final": pairs.after,
            "delta": pairs.delta,
            "delta_ci95": self.delta_ci95,
            "p_value": self.p_value,
            "baseline_ci95": wilson(pairs.both + pairs.lost, pairs.n),
            "final_ci95": wilson(pairs.both + pairs.gained, pairs.n),
            "n": pairs.n,
            "both": pairs.both,
            "gained": pairs.gained,
            "lost": pairs.lost,
            "neither": pairs.neither,
            "smallest_detectable": smallest_detectable(pairs),
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to. `accuracy` is greedy; None where a pass was not made in both."""

    run: str
    model: str
    steps: int
    updated_steps: int
    wall_seconds: float
    k: int
    accuracy: Comparison
    pass_at_k: Comparison | None
    blind: Comparison | None
    scan_only: Comparison | None
    by_family: Mapping[str, Comparison]
    rates: Mapping[str, tuple[float, float]]
    cost: Cost | None = None

    @property
    def evidence(self) -> str:
        """Interval, test and counts of the accuracy, without a verdict."""
        found = self.accuracy
        return (
            f"95% interval {points_range(found.delta_ci95)} points, exact McNemar "
            f"{p_value_in_words(found.p_value)}; {found.pairs.gained} problems gained and "
            f"{found.pairs.lost} lost of {found.pairs.n}"
        )

    @property
    def conclusion(self) -> str:
        """The result in one or two plain sentences."""
        pairs = self.accuracy.pairs
        if self.updated_steps == 0:
            return (
                f"Nothing was trained: in none of the {self.steps} steps did a group have contrast "
                "(some samples right, some wrong), so the exported adapter is the unchanged one."
            )
        before, after = percent(pairs.before), percent(pairs.after)
        if distinguishable(self.accuracy.p_value):
            verb = "rose" if pairs.delta > 0 else "fell"
            by = f"{abs(100 * pairs.delta):.1f}"
            return f"Accuracy {verb} by {by} points, from {before} to {after} ({self.evidence})."
        return (
            f"Not distinguishable: accuracy went from {before} to {after} ({self.evidence}). "
            f"{_what_would_show(pairs)}"
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return {
            "run": self.run,
            "model": self.model,
            "conclusion": self.conclusion,
            "evidence": self.evidence,
            "distinguishable": distinguishable(self.accuracy.p_value),
            **self.accuracy.to_json(),
            "steps": self.steps,
            "updated_steps": self.updated_steps,
            "wall_seconds": round(self.wall_seconds, 3),
            "cost_usd": round(self.cost.usd, 6) if self.cost else None,
            "k": self.k,
            "pass_at_k": self.pass_at_k.to_json() if self.pass_at_k else None,
            "blind": self.blind.to_json() if self.blind else None,
            "scan_only": self.scan_only.to_json() if self.scan_only else None,
            "rates": {
                name: {"baseline": before, "final": after}
                for name, (before, after) in self.rates.items()
            },
            "by_family": {name: found.to_json() for name, found in self.by_family.items()},
        }


def summarize(run_dir: Path, *, steps: int, wall_seconds: float) -> Summary:
    """Compare the evaluations `baseline` and `final` of a run and write `summary.json`.

    `steps` is how many steps the run made, `wall_seconds` how long they took with evaluation and
    export. Problems are paired by id; one whose request failed in either evaluation is in no pair.
    Raises `DataError` where an evaluation is incomplete or the two were made under different
    conditions, naming them.
    """
    folders = [run_dir / "evaluations" / name for name in (BASELINE, FINAL)]
    before, after = (read_report(folder) for folder in folders)
    _require_comparable(before, after)
    columns = [
        "id", "family", "correct", "blind_correct", "scan_only_correct", "k", "sampled_correct",
    ]  # fmt: skip
    old, new = ({row["id"]: row for row in read_predictions(f, columns)} for f in folders)
    shared = [(old[id], new[id]) for id in old if id in new]
    families = sorted({str(a["family"]) for a, _ in shared})
    updated = sum(bool(row.get("updated")) for row in read_metrics(run_dir))
    summary = Summary(
        run=run_dir.name,
        model=after.conditions.model,
        steps=steps,
        updated_steps=updated,
        wall_seconds=wall_seconds,
        k=after.k,
        accuracy=Comparison(_pairs(shared, "correct")),
        pass_at_k=_present(Comparison(_pass_at_k_pairs(shared, after.k))),
        blind=_present(Comparison(_pairs(shared, "blind_correct"))),
        scan_only=_present(Comparison(_pairs(shared, "scan_only_correct"))),
        by_family={
            name: Comparison(_pairs([p for p in shared if p[0]["family"] == name], "correct"))
            for name in families
        },
        rates={
            name: (getattr(before, name), getattr(after, name))
            for name in (
                "sampled_accuracy", "format_rate", "visual_grounding_rate", "mean_response_tokens",
            )
        },
        cost=cost_of_run(run_dir),
    )  # fmt: skip
    write_json(run_dir / FILE_NAME, summary.to_json())
    return summary


AnswerRow = Mapping[str, Any]


def _pairs(rows: Sequence[tuple[AnswerRow, AnswerRow]], column: str) -> Pairs:
    present = [(a[column], b[column]) for a, b in rows if None not in (a[column], b[column])]
    return Pairs.count([a for a, _ in present], [b for _, b in present])


def _pass_at_k_pairs(rows: Sequence[tuple[AnswerRow, AnswerRow]], k: int) -> Pairs:
    """With all k samples there, pass@k of one problem is whether any of them is right."""
    present = [(a, b) for a, b in rows if a["k"] == k and b["k"] == k]
    return Pairs.count(
        [a["sampled_correct"] > 0 for a, _ in present],
        [b["sampled_correct"] > 0 for _, b in present],
    )


def _present(comparison: Comparison) -> Comparison | None:
    return comparison if comparison.pairs.n else None


def _require_comparable(before: Report, after: Report) -> None:
    differing = [
        f"{name} ({getattr(before.conditions, name)!r} and {getattr(after.conditions, name)!r})"
        for name in _SHARED
        if getattr(before.conditions, name) != getattr(after.conditions, name)
    ]
    if differing:
        raise DataError(
            f"The evaluations {BASELINE} and {FINAL} cannot be compared, they differ in "
            f"{', '.join(differing)}: remove the older of the two folders and evaluate again."
        )


def _what_would_show(pairs: Pairs) -> str:
    smallest = smallest_detectable(pairs)
    if smallest >= 1:
        return f"{pairs.n} problems are too few to show any difference; evaluate on more."
    return (
        f"With {pairs.n} problems, a true difference of about {100 * smallest:.1f} points shows in "
        "four of five evaluations."
    )
