"""The validation curve of the report: accuracy on held-out problems while the run trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visual_r1.evaluation.charts import Curve, Marker, draw
from visual_r1.evaluation.wording import percent
from visual_r1.runs.validations import ValidationRow


@dataclass(frozen=True, slots=True)
class ValidationFigure:
    """The chart, how many problems it is of, and which checkpoint was the most accurate."""

    chart: Markup
    n: int
    blind: bool
    best_step: int
    best_accuracy: float


def validation_figure(rows: Sequence[ValidationRow]) -> ValidationFigure | None:
    """The figure of `rows`, in the order of their steps; None where no checkpoint was validated."""
    trained = [row for row in rows if row.step and row.n]
    if not trained:
        return None
    best = max(trained, key=lambda row: (row.accuracy, row.step))
    curve = Curve(
        "Accuracy on validation problems by step",
        "; ".join(f"step {row.step}: {percent(row.accuracy)}" for row in rows) + ".",
        tuple((float(row.step), row.accuracy) for row in rows),
        tuple(marker for row in rows for marker in _markers(row)),
        y_range=(0.0, 1.0),
        show="{:.0%}".format,
    )
    return ValidationFigure(
        chart=draw(curve, "curve-validation"),
        n=max(row.n for row in rows),
        blind=any(row.blind_accuracy is not None for row in rows),
        best_step=best.step,
        best_accuracy=best.accuracy,
    )


def _markers(row: ValidationRow) -> list[Marker]:
    name, x = f"step {row.step}", float(row.step)
    found = [Marker(x, row.accuracy, *row.accuracy_ci95, name)]
    if row.blind_accuracy is not None and row.blind_accuracy_ci95 is not None:
        low, high = row.blind_accuracy_ci95
        found.append(Marker(x, row.blind_accuracy, low, high, f"{name}, blanked", hollow=True))
    return found
