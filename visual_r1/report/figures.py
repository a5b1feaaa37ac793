"""The figures of a run: how training went, what validation found, and seeing against thinking.

Rows are those of metrics.jsonl. A row of an earlier version, or of a step without samples, may lack
a value: then the curve has a gap there, and a figure without any value is left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visual_r1.evaluation.metrics import Report
from visual_r1.policy.second_pass import OUTCOMES, Outcome
from visual_r1.report.charts import (
    Curve,
    Layer,
    Marker,
    Point,
    Show,
    curve_chart,
    stacked_chart,
)
from visual_r1.report.summary import BASELINE, FINAL
from visual_r1.runs.journal import MetricsRow
from visual_r1.runs.validations import ValidationRow
from visual_r1.wording import percent


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart, what stands above it, and its name: in addresses, and for who asks for it."""

    name: str
    title: str
    chart: Markup


@dataclass(frozen=True, slots=True)
class _Watched:
    """A value of metrics.jsonl with a curve from 0 up, to `least` at least, where it is there."""

    key: str
    title: str
    what: str
    show: Show
    least: float
    sign: int = 1


_WATCHED = (
    # Of a supervised run.
    _Watched(
        "response_loss", "Loss of the responses, nats a token", "Mean loss of a response token",
        "{:.3f}".format, 0.1,
    ),
    _Watched(
        "held_out_loss", "Loss of held-out responses, nats a token",
        "Mean loss of a response token of the validation problems", "{:.3f}".format, 0.1,
    ),
    _Watched(
        "entropy", "Entropy, nats a token", "Entropy of the sampled tokens", "{:.2f}".format, 0.1
    ),
    _Watched(
        "response_tokens_mean", "Response length, tokens", "Mean response length",
        "{:.0f}".format, 10,
    ),
    # Rounding alone stays flat at the bottom.
    _Watched(
        "kl_sampler_learner", "KL(sampler || learner), nats a token",
        "KL between sampler and learner", "{:.2g}".format, 1e-6,
    ),
    _Watched(
        "off_policy_kl", "KL off policy, nats a token", "Largest KL of the later minibatches",
        "{:.2g}".format, 1e-3,
    ),
    # As a component of the reward it is minus the KL.
    _Watched(
        "reward_kl", "KL to the base model, nats a response", "Mean KL to the base model",
        "{:.2g}".format, 0.1, sign=-1,
    ),
)  # fmt: skip


def training_figures(
    metrics: Sequence[MetricsRow], reports: Mapping[str, Report], final_step: int | None = None
) -> list[Figure]:
    """Accuracy and reward by step, then what is watched, as far as the steps have it.

    The first and the last evaluation are markers beside the accuracy; `final_step` is that of the
    checkpoint which the last one is of, by default that of the end.
    """
    if not metrics:
        return []
    end = float(final_step or max(row["step"] for row in metrics) + 1)
    # `inward` keeps the sampled accuracy off the greedy one at the same step.
    markers = [
        marker
        for name, step, inward in ((BASELINE, 0.0, 8.0), (FINAL, end, -8.0))
        if name in reports
        for marker in _evaluation_markers(reports[name], name, step, inward)
    ]
    accuracy, reward = _series(metrics, "accuracy"), _series(metrics, "reward_mean")
    accuracy_curve = Curve(
        "Accuracy by step",
        _described("Share of right samples", accuracy, percent),
        accuracy,
        tuple(markers),
        y_range=(0.0, 1.0),
        show="{:.0%}".format,
    )
    reward_curve = Curve(
        "Mean reward by step",
        _described("Mean reward of the samples", reward, "{:.2f}".format),
        reward,
    )
    figures: list[Figure] = []
    if accuracy or not _is_supervised(metrics):
        figures += [
            Figure(
                "accuracy", "Accuracy of the samples", curve_chart(accuracy_curve, "curve-accuracy")
            ),
            Figure("reward", "Mean reward", curve_chart(reward_curve, "curve-reward")),
        ]
    for watched in _WATCHED:
        points = _series(metrics, watched.key, watched.sign)
        if points:
            values = [y for _, y in points]
            curve = Curve(
                f"{watched.what} by step",
                _described(watched.what, points, watched.show),
                points,
                y_range=(min(*values, 0.0), max(*values, watched.least)),
            )
            chart = curve_chart(curve, f"curve-{watched.key.replace('_', '-')}")
            figures.append(Figure(watched.key, watched.title, chart))
    return figures


def _is_supervised(metrics: Sequence[MetricsRow]) -> bool:
    """Whether nothing was sampled, but responses that were there learnt."""
    return any("response_loss" in row for row in metrics)


def _evaluation_markers(report: Report, name: str, step: float, inward: float) -> list[Marker]:
    found = [Marker(step, report.accuracy, *report.accuracy_ci95, f"{name}, greedy")]
    if report.sampled_n:
        low, high = report.sampled_accuracy_ci95
        found.append(
            Marker(step, report.sampled_accuracy, low, high, f"{name}, sampled", inward, True)
        )
    return found


def _series(metrics: Sequence[MetricsRow], key: str, sign: int = 1) -> tuple[Point, ...]:
    """The values of the steps that have one."""
    return tuple(
        (float(row["step"]), sign * float(row[key])) for row in metrics if row.get(key) is not None
    )


def _described(what: str, points: Sequence[Point], show: Show) -> str:
    """The curve in words, for who cannot see it."""
    values = [value for _, value in points]
    if not values:
        return f"{what}: no step has a value."
    fifth = max(len(values) // 5, 1)
    start, end = sum(values[:fifth]) / fifth, sum(values[-fifth:]) / fifth
    return (
        f"{what}, {len(values)} steps: {show(start)} on average over the first {fifth}, "
        f"{show(end)} over the last {fifth}."
    )


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
    markers: list[Marker] = []
    for row in rows:
        name, step = f"step {row.step}", float(row.step)
        markers.append(Marker(step, row.accuracy, *row.accuracy_ci95, name))
        if row.blind_accuracy is not None and row.blind_accuracy_ci95 is not None:
            low, high = row.blind_accuracy_ci95
            blanked = Marker(step, row.blind_accuracy, low, high, f"{name}, blanked", hollow=True)
            markers.append(blanked)
    curve = Curve(
        "Accuracy on validation problems by step",
        "; ".join(f"step {row.step}: {percent(row.accuracy)}" for row in rows) + ".",
        tuple((float(row.step), row.accuracy) for row in rows),
        tuple(markers),
        y_range=(0.0, 1.0),
        show="{:.0%}".format,
    )
    return ValidationFigure(
        chart=curve_chart(curve, "curve-validation"),
        n=max(row.n for row in rows),
        blind=any(row.blind_accuracy is not None for row in rows),
        best_step=best.step,
        best_accuracy=best.accuracy,
    )


# From the bottom of the stack; what they mean, for a reader.
MEANINGS: Mapping[Outcome, str] = {
    "both": "right with the image and from the description",
    "scan_only": "right from the description alone",
    "image_only": "right with the image alone",
    "neither": "right with neither",
}


@dataclass(frozen=True, slots=True)
class OutcomeShares:
    """The shares of the four outcomes at one step; they add up to 1."""

    step: float
    shares: Mapping[Outcome, float]


def outcome_shares(rows: Sequence[MetricsRow]) -> list[OutcomeShares]:
    """The shares by step; steps without a second pass are left out."""
    found: list[OutcomeShares] = []
    for row in rows:
        shares: dict[Outcome, float] = {}
        for name in OUTCOMES:
            share = row.get(f"outcome_{name}")
            if isinstance(share, int | float):
                shares[name] = float(share)
        if len(shares) == len(OUTCOMES):
            found.append(OutcomeShares(float(row["step"]), shares))
    return found


def mean_shares(points: Sequence[OutcomeShares]) -> dict[Outcome, float]:
    """The mean of each share over at least one point."""
    return {name: math.fsum(p.shares[name] for p in points) / len(points) for name in OUTCOMES}


def outcome_chart(points: Sequence[OutcomeShares], ident: str) -> Markup:
    """The shares, stacked, of at least one step; `ident` makes ids unique in the page."""
    fifth = max(len(points) // 5, 1)
    start, end = mean_shares(points[:fifth]), mean_shares(points[-fifth:])
    parts = [
        f"{name.replace('_', ' ')} {percent(start[name])}, then {percent(end[name])}"
        for name in MEANINGS
    ]
    description = f"Shares over the first {fifth} and the last {fifth} steps: {'; '.join(parts)}."
    layers = [
        Layer(name, meaning, tuple((point.step, point.shares[name]) for point in points))
        for name, meaning in MEANINGS.items()
    ]
    return stacked_chart(layers, "Outcomes of the samples by step", description, ident)
