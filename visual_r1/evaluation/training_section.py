"""How training went, for the page: its curves by step, and what tells whether it was healthy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visual_r1.evaluation.charts import Curve, Marker, Point, draw
from visual_r1.evaluation.metrics import Report
from visual_r1.evaluation.summary import BASELINE, FINAL
from visual_r1.evaluation.wording import percent
from visual_r1.runs.journal import Row

Show = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart and what stands above it."""

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
    _Watched(
        "reward_kl", "KL to the base model, nats a response", "Mean KL to the base model",
        "{:.2g}".format, 0.1, sign=-1,
    ),
)  # fmt: skip


def curves(metrics: Sequence[Row], reports: Mapping[str, Report]) -> list[Figure]:
    """Accuracy and reward, then what is watched, as far as the steps have it."""
    if not metrics:
        return []
    end = max(row["step"] for row in metrics) + 1
    markers = [
        marker
        for name, x in ((BASELINE, 0.0), (FINAL, float(end)))
        if name in reports
        for marker in _markers(reports[name], name, x, inward=8 if name == BASELINE else -8)
    ]
    accuracy, reward = _series(metrics, "accuracy"), _series(metrics, "reward_mean")
    drawn = [
        Curve(
            "Accuracy by step",
            _described("Share of right samples", accuracy, percent),
            accuracy,
            tuple(markers),
            y_range=(0.0, 1.0),
            show="{:.0%}".format,
        ),
        Curve(
            "Mean reward by step",
            _described("Mean reward of the samples", reward, "{:.2f}".format),
            reward,
        ),
    ]
    figures = [
        Figure("Accuracy of the samples", draw(drawn[0], "curve-accuracy")),
        Figure("Mean reward", draw(drawn[1], "curve-reward")),
    ]
    return figures + [
        _figure(watched, points)
        for watched in _WATCHED
        if (points := _series(metrics, watched.key, watched.sign))
    ]


def _figure(watched: _Watched, points: tuple[Point, ...]) -> Figure:
    low, high = min(y for _, y in points), max(y for _, y in points)
    curve = Curve(
        f"{watched.what} by step",
        _described(watched.what, points, watched.show),
        points,
        y_range=(min(low, 0.0), max(high, watched.least)),
    )
    return Figure(watched.title, draw(curve, f"curve-{watched.key.replace('_', '-')}"))


def _markers(report: Report, name: str, x: float, inward: float) -> list[Marker]:
    """Greedy and sampled accuracy side by side; `inward` keeps the second off the first."""
    found = [Marker(x, report.accuracy, *report.accuracy_ci95, f"{name}, greedy")]
    if report.sampled_n:
        low, high = report.sampled_accuracy_ci95
        sampled = Marker(x, report.sampled_accuracy, low, high, f"{name}, sampled", inward, True)
        found.append(sampled)
    return found


def _series(metrics: Sequence[Row], key: str, sign: int = 1) -> tuple[Point, ...]:
    """The values of the steps that have one; rows of an earlier version may not."""
    return tuple(
        (float(row["step"]), sign * float(row[key])) for row in metrics if row.get(key) is not None
    )


def _described(what: str, points: Sequence[Point], show: Show) -> str:
    values = [value for _, value in points]
    if not values:
        return f"{what}: no step has a value."
    fifth = max(len(values) // 5, 1)
    start, end = sum(values[:fifth]) / fifth, sum(values[-fifth:]) / fifth
    return (
        f"{what}, {len(values)} steps: {show(start)} on average over the first {fifth}, "
        f"{show(end)} over the last {fifth}."
    )


def health(metrics: Sequence[Row]) -> list[tuple[str, str]]:
    """What tells a healthy run from one that only looks like it."""
    if not metrics:
        return []
    groups = sum(row.get("groups") or 0 for row in metrics)
    flat = sum(row.get("groups_without_contrast") or 0 for row in metrics)
    facts = [
        (
            "Steps with an update",
            f"{sum(bool(r.get('updated')) for r in metrics)} of {len(metrics)}",
        )
    ]
    if groups:
        facts.append(("Groups without contrast", f"{percent(flat / groups)} of {groups}"))
    for label, key, show in (
        ("Largest KL(sampler || learner) of a step, nats a token", "kl_sampler_learner", "{:.2e}"),
        ("Largest importance ratio", "ratio_max", "{:.3f}"),
        ("Largest gradient norm", "grad_norm", "{:.3g}"),
    ):
        values = [row[key] for row in metrics if row.get(key) is not None]
        if values:
            facts.append((label, show.format(max(values))))
    for label, key in (("Samples that failed", "failed"), ("Grades given up", "gave_up")):
        facts.append((label, str(sum(row.get(key) or 0 for row in metrics))))
    for label, key in (
        ("Samples that gave a gradient, mean share", "gradient_share"),
        ("Tokens clipped in later minibatches, mean share", "off_policy_clip_share"),
        ("Descriptions that held an answer, mean share", "scans_with_answer"),
        ("Descriptions that leaked all the same, mean share", "leaks"),
        ("Samples without a description, mean share", "scans_missing"),
    ):
        values = [row[key] for row in metrics if row.get(key) is not None]
        if values:
            facts.append((label, percent(sum(values) / len(values))))
    return facts
