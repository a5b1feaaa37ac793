"""What a run has cost so far, by its own files: its steps, validations and evaluations.

Each counts once, whatever was done twice: steps that a failure undid are trained again to the same
figures, and only the second time is on record. An evaluation that was made anew of other weights
counts with all that were made in its place before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visual_r1.evaluation.metrics import read_reports
from visual_r1.prices import NO_PRICES, Payment, Prices, Tokens, total, usd_in_all
from visual_r1.runs.bill import read_bill
from visual_r1.runs.journal import read_metrics
from visual_r1.runs.validations import Validations


@dataclass(frozen=True, slots=True)
class Cost:
    """An estimate in US dollars; not `whole` where a step, validation or evaluation has none.

    `billed` is what the server's bill said when it was asked last, None where it said nothing.
    """

    usd: float
    whole: bool
    billed: float | None = None

    def __str__(self) -> str:
        billed = "" if self.billed is None else f" (billed so far: ${self.billed:,.2f})"
        return f"{'about' if self.whole else 'at least'} ${self.usd:,.2f}{billed}"


def payments(run_dir: Path, before: int | None = None) -> Iterator[Payment]:
    """All there are, or without the steps from `before` on and the validations after it."""
    for row in read_metrics(run_dir):
        if before is None or row["step"] < before:
            yield Payment.of_step(row)
    for report in read_reports(run_dir).values():
        yield Payment.of(report.spending)
    for row in Validations(run_dir).rows():
        if before is None or row.step <= before:
            yield Payment.of(row)


def cost_of_run(run_dir: Path) -> Cost | None:
    """The sum of all payments; None where none has a cost."""
    found = [one.usd for one in payments(run_dir)]
    usd = usd_in_all(found)
    if usd is None:
        return None
    bill = read_bill(run_dir)
    return Cost(usd, None not in found, bill.usd if bill else None)


def tokens_of_run(run_dir: Path, before: int | None = None) -> Tokens:
    """The tokens of all payments, see `payments`."""
    return total(one.tokens for one in payments(run_dir, before))


def usd_of_run(run_dir: Path, prices: Prices = NO_PRICES, before: int | None = None) -> float:
    """The sum of all payments, see `payments`; those without a cost at `prices`, where known."""
    return sum(
        (prices.cost(one.tokens) or 0.0) if one.usd is None else one.usd
        for one in payments(run_dir, before)
    )
