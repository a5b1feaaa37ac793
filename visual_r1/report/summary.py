"""Before against after: two evaluations of the same problems, compared as pairs, and what it cost.

`summary.json` holds the accuracy's comparison flat beside the run's own figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import TypeAdapter

from visual_r1.errors import DataError
from visual_r1.evaluation.deciding import SAMPLED, differing
from visual_r1.evaluation.metrics import Report, evaluation_folder, read_report
from visual_r1.evaluation.predictions import read_predictions
from visual_r1.evaluation.statistics import Comparison, Pairs, distinguishable
from visual_r1.printing import open_logger
from visual_r1.runs.budget import BudgetEnd, read_budget_end
from visual_r1.runs.costs import cost_of_run
from visual_r1.runs.journal import read_metrics
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.result import is_of_newest
from visual_r1.storage import flat_in_the_file, put_aside, read_json, write_json
from visual_r1.wording import accuracy_moved, p_value_in_words, percent, points_range

logger = open_logger(__name__)

SUMMARY_NAME = "summary.json"
PAGE_NAME = "report.html"
BASELINE, FINAL = "baseline", "final"

# Two evaluations are comparable when these agree. Of two graders the summary says so.
_SHARED = tuple(name for name in SAMPLED if name != "grader_version")

RATES = ("sampled_accuracy", "format_rate", "visual_grounding_rate", "mean_response_tokens")

T = TypeVar("T")
PredictionRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """A value that has no paired test."""

    baseline: float
    final: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run came to, as `summary.json` holds it.

    `conclusion` is the result in one or two plain sentences, `evidence` the accuracy's interval,
    test and counts without a verdict. `accuracy` is greedy; a comparison is None where that pass
    was not made in both evaluations. `cost_usd` is an estimate, None without prices; `budget`
    is how the run was ended by its budget, None where all its steps are done.
    """

    run: str
    model: str
    conclusion: str
    evidence: str
    distinguishable: bool
    accuracy: Comparison
    steps: int
    updated_steps: int
    wall_seconds: float
    cost_usd: float | None = None
    budget: BudgetEnd | None = None
    k: int
    pass_at_k: Comparison | None
    blind: Comparison | None
    scan_only: Comparison | None = None
    rates: Mapping[str, BeforeAfter]
    by_family: Mapping[str, Comparison]

    def counted(self, *, has_gone_on: bool = False) -> tuple[object, ...]:
        """What was counted in the run's files; where it has gone on, those of its evaluations.

        The rest follows from that, in words and by statistics which another version may have chosen
        otherwise. The run's name is for who has its folder to choose."""
        compared = {
            "accuracy": self.accuracy,
            "pass@k": self.pass_at_k,
            "blind": self.blind,
            "scan only": self.scan_only,
            **{f"family {name}": found for name, found in self.by_family.items()},
        }
        pairs = {
            name: found and Pairs(found.both, found.gained, found.lost, found.neither)
            for name, found in compared.items()
        }
        of_steps = self.steps, self.updated_steps, self.cost_usd, self.budget
        evaluated = self.model, self.k, dict(self.rates), pairs
        return evaluated if has_gone_on else (*of_steps, *evaluated)

    def to_json(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            flat |= value if name == "accuracy" else {name: value}
        return flat


_STORED = TypeAdapter(Annotated[Summary, flat_in_the_file("accuracy")])


def read_summary(run_dir: Path) -> Summary | None:
    """The summary of the run; None where there is none yet, `DataError` where it is damaged."""
    found = read_if_there(run_dir / SUMMARY_NAME, _STORED)
    if found is not None and (missing := [name for name in RATES if name not in found.rates]):
        raise _damaged(run_dir / SUMMARY_NAME, f"rates: {', '.join(missing)} missing")
    return found


def is_current(run_dir: Path, steps: int, wall_seconds: float) -> bool:
    """Whether the summary is that of the run's files, with these two figures, and has its page."""
    try:
        there = read_summary(run_dir)
        return (run_dir / PAGE_NAME).exists() and there == summary_of(
            run_dir, steps=steps, wall_seconds=wall_seconds
        )
    except DataError:
        return False


def has_gone_on(run_dir: Path, summary: Summary) -> bool:
    """Whether the run has another newest checkpoint by now than the one that `summary` is of."""
    rows = [line.row for line in Ledger(run_dir).read().sound]
    return not is_of_newest(run_dir, rows, summary.steps)


def as_of(run_dir: Path, summary: Summary) -> str:
    """What stands before the words of a summary; nothing where it is of the run as it is now."""
    if not has_gone_on(run_dir, summary):
        return ""
    return f"As of step {summary.steps}, from where the run has gone on or back: "


def read_if_there(path: Path, shape: TypeAdapter[T]) -> T | None:
    """A JSON file of a run; None where it is not there, `DataError` where it is damaged."""
    try:
        return read_json(path, shape)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged ({why}): remove it and start the run again.")


def summarize(run_dir: Path, *, steps: int, wall_seconds: float) -> Summary:
    """Write `summary.json`, and return what is in it; all else as `summary_of`.

    One that is there and damaged is put aside, with a warning.
    """
    summary = summary_of(run_dir, steps=steps, wall_seconds=wall_seconds)
    try:
        read_summary(run_dir)
    except DataError as error:
        aside = put_aside(run_dir / SUMMARY_NAME)
        logger.warning(
            "%s This is done now: it is made again, and the damaged one is %s.", error, aside
        )
    write_json(run_dir / SUMMARY_NAME, summary.to_json())
    return summary


def summary_of(run_dir: Path, *, steps: int, wall_seconds: float) -> Summary:
    """The comparison of a run's evaluations `baseline` and `final`; nothing is written.

    `steps` is how many steps the run made, `wall_seconds` how long they took with evaluation and
    export. Problems are paired by id; one whose request failed in either evaluation is in no pair.
    Raises `DataError` where an evaluation is incomplete or the two were made under different
    conditions, naming them.
    """
    folders = [evaluation_folder(run_dir, name) for name in (BASELINE, FINAL)]
    before, after = (read_report(folder) for folder in folders)
    _require_comparable(before, after)
    columns = [
        "id", "family", "correct", "blind_correct", "scan_only_correct", "k", "sampled_correct",
    ]  # fmt: skip
    old, new = ({row["id"]: row for row in read_predictions(f, columns)} for f in folders)
    shared = [(old[id], new[id]) for id in old if id in new]
    families = sorted({str(row["family"]) for row, _ in shared})
    updated = sum(bool(row.get("updated")) for row in read_metrics(run_dir))
    cost = cost_of_run(run_dir)
    accuracy = Comparison.of(_pairs(shared, "correct"))
    return Summary(
        run=run_dir.name,
        model=after.conditions.model,
        conclusion=_conclusion(accuracy, steps, updated) + _two_graders(before, after),
        evidence=_evidence(accuracy),
        distinguishable=distinguishable(accuracy.p_value),
        accuracy=accuracy,
        steps=steps,
        updated_steps=updated,
        wall_seconds=round(wall_seconds, 3),
        cost_usd=round(cost.usd, 6) if cost else None,
        budget=read_budget_end(run_dir, steps),
        k=after.k,
        pass_at_k=_compared(_pass_at_k_pairs(shared, after.k)),
        blind=_compared(_pairs(shared, "blind_correct")),
        scan_only=_compared(_pairs(shared, "scan_only_correct")),
        rates={name: BeforeAfter(getattr(before, name), getattr(after, name)) for name in RATES},
        by_family={
            name: Comparison.of(_pairs([p for p in shared if p[0]["family"] == name], "correct"))
            for name in families
        },
    )


def _require_comparable(before: Report, after: Report) -> None:
    unlike = [
        f"{name} ({getattr(before.conditions, name)!r} and {getattr(after.conditions, name)!r})"
        for name in differing(before.conditions, after.conditions, _SHARED, unknown=False)
    ]
    if unlike:
        raise DataError(
            f"The evaluations {BASELINE} and {FINAL} cannot be compared, they differ in "
            f"{', '.join(unlike)}: remove the older of the two folders and evaluate again."
        )


def _two_graders(before: Report, after: Report) -> str:
    """A run that was begun under another version of the grader ends, and says so."""
    graders = before.conditions.grader_version, after.conditions.grader_version
    if graders[0] == graders[1]:
        return ""
    return (
        f" The {BASELINE} was graded by version {graders[0]} of the grader and the {FINAL} answers "
        f"by version {graders[1]}: part of the difference may be the graders'. To have one grader, "
        f"remove the folder evaluations/{BASELINE} and start the run again."
    )


def _pairs(rows: Sequence[tuple[PredictionRow, PredictionRow]], column: str) -> Pairs:
    present = [(a[column], b[column]) for a, b in rows if None not in (a[column], b[column])]
    return Pairs.count([a for a, _ in present], [b for _, b in present])


def _pass_at_k_pairs(rows: Sequence[tuple[PredictionRow, PredictionRow]], k: int) -> Pairs:
    """With all k samples there, pass@k of one problem is whether any of them is right."""
    present = [(a, b) for a, b in rows if k and a["k"] == k and b["k"] == k]
    return Pairs.count(
        [a["sampled_correct"] > 0 for a, _ in present],
        [b["sampled_correct"] > 0 for _, b in present],
    )


def _compared(pairs: Pairs) -> Comparison | None:
    return Comparison.of(pairs) if pairs.n else None


def _evidence(found: Comparison) -> str:
    return (
        f"95% interval {points_range(found.delta_ci95)} points, exact McNemar "
        f"{p_value_in_words(found.p_value)}; {found.gained} problems gained and "
        f"{found.lost} lost of {found.n}"
    )


def _conclusion(found: Comparison, steps: int, updated: int) -> str:
    if updated == 0:
        return (
            f"Nothing was trained: in none of the {steps} steps did a group have contrast "
            "(some samples right, some wrong), so the exported adapter is the unchanged one."
        )
    if distinguishable(found.p_value):
        return f"{accuracy_moved(found.baseline, found.final, found.delta)} ({_evidence(found)})."
    if found.smallest_detectable >= 1:
        way_out = f"{found.n} problems are too few to show any difference; evaluate on more."
    else:
        way_out = (
            f"With {found.n} problems, a true difference of about "
            f"{100 * found.smallest_detectable:.1f} points shows in four of five evaluations."
        )
    before, after = percent(found.baseline), percent(found.final)
    return (
        f"Not distinguishable: accuracy went from {before} to {after} ({_evidence(found)}). "
        f"{way_out}"
    )
