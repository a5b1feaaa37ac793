"""What a run took, in tokens and dollars, by what it was spent on: a table of the page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from visual_r1.evaluation.metrics import Report
from visual_r1.prices import Tokens, total
from visual_r1.runs.costs import tokens_of_step
from visual_r1.runs.journal import MetricsRow
from visual_r1.runs.validations import ValidationRow


@dataclass(frozen=True, slots=True)
class SpendingRow:
    """Tokens by kind, as a server bills them; `usd` is None where no price was known."""

    name: str
    tokens: Tokens
    usd: float | None


def spending_rows(
    metrics: Sequence[MetricsRow],
    reports: Mapping[str, Report],
    validations: Sequence[ValidationRow],
) -> list[SpendingRow]:
    """A row for training, one for validation, one for each evaluation, and their sum."""
    rows = [
        _row("training", [(tokens_of_step(row), row.get("cost_usd")) for row in metrics]),
        _row(
            "validation",
            [
                (
                    Tokens(row.tokens_prefill, row.tokens_sampled, cached=row.tokens_cached),
                    row.cost_usd,
                )
                for row in validations
            ],
        ),
    ]
    for name, report in reports.items():
        spent = report.spending
        tokens = Tokens(
            spent.tokens_prefill or 0, spent.tokens_sampled or 0, cached=spent.tokens_cached or 0
        )
        rows.append(_row(f"evaluation {name}", [(tokens, spent.cost_usd)]))
    rows = [row for row in rows if row.tokens.count]
    if len(rows) > 1:
        rows.append(_row("in all", [(row.tokens, row.usd) for row in rows]))
    return rows


def _row(name: str, spent: Iterable[tuple[Tokens, float | None]]) -> SpendingRow:
    found = list(spent)
    known = [usd for _, usd in found if usd is not None]
    return SpendingRow(name, total(tokens for tokens, _ in found), sum(known) if known else None)
