"""The alarms that look at the validations: rows of validation.jsonl.

A fall or a rise counts where two validations in a row show it, each of them so far that chance
alone would in one of a hundred times. Validations of the same problems are compared as pairs, by
the exact test of McNemar (1947) on the problems that changed; where the row does not say which
problem was right, as shares of two samples.
"""

import math
from collections.abc import Sequence

from visual_r1.alarms.windows import StepRow, special

ALPHA = 0.01
LEAST = 0.05  # 5 points


def validation_falls(rows: Sequence[StepRow], step: int) -> str | None:
    """The last two validations are both below the best one before them."""
    known = _known(rows, step, "n", "accuracy")
    if len(known) < 3:
        return None
    *earlier, one, two = known
    best = max(earlier, key=lambda row: row["accuracy"])
    if any(
        best["accuracy"] - row["accuracy"] < LEAST or _p_fall(best, row) >= ALPHA
        for row in (one, two)
    ):
        return None
    return (
        f"accuracy on {two['n']} validation problems fell from {best['accuracy']:.1%} (step "
        f"{best['step']}) to {one['accuracy']:.1%} (step {one['step']}) and "
        f"{two['accuracy']:.1%} (step {two['step']})."
    )


def blind_gap_closes(rows: Sequence[StepRow], step: int) -> str | None:
    """Accuracy without the image rises, at least half as much as accuracy with it."""
    known = _known(rows, step, "n", "accuracy", "blind_accuracy")
    if len(known) < 3:
        return None
    first, *_, one, two = known
    blind, n = first["blind_accuracy"], int(first.get("blind_n") or first["n"])
    for row in (one, two):
        if row["blind_accuracy"] - blind < max(LEAST, (row["accuracy"] - first["accuracy"]) / 2):
            return None
        row_n = int(row.get("blind_n") or row["n"])
        if _p_of_shares(row["blind_accuracy"], row_n, blind, n) >= ALPHA:
            return None
    return (
        f"accuracy with the image blanked rose from {blind:.1%} (step {first['step']}) to "
        f"{two['blind_accuracy']:.1%} (step {two['step']}), with the image it went from "
        f"{first['accuracy']:.1%} to {two['accuracy']:.1%}."
    )


def _known(rows: Sequence[StepRow], step: int, *names: str) -> list[StepRow]:
    """The rows up to `step` that hold all these numbers, of at least one problem."""
    return [
        row
        for row in rows
        if row["step"] <= step
        and all(isinstance(row.get(name), int | float) for name in names)
        and row["n"] > 0
    ]


def _p_fall(before: StepRow, after: StepRow) -> float:
    """How likely chance is to show such a fall: P(gains <= those seen), of as many changes."""
    one, other = before.get("right"), after.get("right")
    if not isinstance(one, str) or not isinstance(other, str) or len(one) != len(other):
        return _p_of_shares(before["accuracy"], before["n"], after["accuracy"], after["n"])
    pairs = [pair for pair in zip(one, other, strict=True) if "-" not in pair]
    gains, losses = pairs.count(("0", "1")), pairs.count(("1", "0"))
    return float(special().bdtr(gains, gains + losses, 0.5)) if gains + losses else 1.0


def _p_of_shares(high: float, n_high: int, low: float, n_low: int) -> float:
    """How likely chance is to put one share so far above another, with their common variance.

    A success and a failure are added to both (Agresti and Coull 1998): few are certain at 0 of n.
    """
    a, b = (high * n_high + 1) / (n_high + 2), (low * n_low + 1) / (n_low + 2)
    pooled = (a * (n_high + 2) + b * (n_low + 2)) / (n_high + n_low + 4)
    error = math.sqrt(pooled * (1 - pooled) * (1 / (n_high + 2) + 1 / (n_low + 2)))
    return float(special().ndtr(-(a - b) / error))
