"""What a run has cost: its steps and its evaluations, as far as prices were set."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visual_r1.evaluation.metrics import REPORT_NAME
from visual_r1.evaluation.run_files import Row, evaluation_names, read_metrics, read_object


@dataclass(frozen=True, slots=True)
class Cost:
    """In US dollars. It is not `whole` where a step or an evaluation has no cost."""

    usd: float
    whole: bool

    def __str__(self) -> str:
        return f"{'about' if self.whole else 'at least'} ${self.usd:,.2f}"


def cost_of_run(run_dir: Path) -> Cost | None:
    """The sum over `metrics.jsonl` and the evaluations; None where nothing has a cost."""
    rows = [*read_metrics(run_dir), *_reports(run_dir)]
    costs = [float(row["cost_usd"]) for row in rows if row.get("cost_usd") is not None]
    return Cost(sum(costs), whole=len(costs) == len(rows)) if costs else None


def _reports(run_dir: Path) -> Iterator[Row]:
    for name in evaluation_names(run_dir):
        report = read_object(run_dir / "evaluations" / name / REPORT_NAME)
        if report is not None:
            yield report
