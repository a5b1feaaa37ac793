"""What a run has cost: its steps, validations and evaluations, as far as prices were set."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visual_r1.evaluation.metrics import REPORT_NAME
from visual_r1.runs.journal import Row, evaluation_names, read_metrics, read_object
from visual_r1.runs.validations import Validations


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
