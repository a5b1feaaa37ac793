"""What a run took, in tokens and dollars, by what it was spent on: a table of its pages."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from visual_r1.prices import Payment, Spent, Tokens
from visual_r1.runs.journal import MetricsRow
from visual_r1.runs.validations import ValidationRow


class SpendingRow(NamedTuple):
    """Tokens by kind, as a server bills them; `usd` is None where no price was known."""

    name: str
    tokens: Tokens
    usd: float | None


def spending_rows(
    metrics: Sequence[MetricsRow],
    evaluations: Mapping[str, Spent],
    validations: Sequence[ValidationRow],
) -> list[SpendingRow]:
    """A row for training, one for validation, one for each evaluation, and their sum."""
    parts = {
        "training": Payment.in_all(map(Payment.of_step, metrics)),
        "validation": Payment.in_all(map(Payment.of, validations)),
        **{f"evaluation {name}": Payment.of(spent) for name, spent in evaluations.items()},
    }
    parts = {name: paid for name, paid in parts.items() if paid.tokens.count}
    if len(parts) > 1:
        parts["in all"] = Payment.in_all(parts.values())
    return [SpendingRow(name, paid.tokens, paid.usd) for name, paid in parts.items()]
