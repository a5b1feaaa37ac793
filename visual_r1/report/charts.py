"""The learning curves as inline SVG: no script, no fonts, colours from the page's style sheet.

Seeing against thinking: the shares of the four outcomes by step, stacked, as inline SVG.

The validation curve of the report: accuracy on held-out problems while the run trained.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visual_r1.policy.second_pass import OUTCOMES, Outcome
from visual_r1.runs.validations import ValidationRow
from visual_r1.wording import percent

Point = tuple[float, float]

WIDTH, HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 14, 40


@dataclass(frozen=True, slots=True)
class Marker:
    """A labelled point with an interval: an evaluation beside the curve of training.

    `shift` moves it sideways, in units of the view box.
    """

    x: float
    y: float
    low: float
    high: float
    label: str
    shift: float = 0.0
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """A value by step, drawn as points and as a smoothed line, with evaluations as markers."""

    title: str
    description: str
    points: tuple[Point, ...]
    markers: tuple[Marker, ...] = ()
    y_range: Point | None = None
    show: Callable[[float], str] = "{:g}".format


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """The centred mean over `window` points, fewer at the ends."""
    half = window // 2
    line: list[Point] = []
    for index, (x, _) in enumerate(points):
        near = points[max(0, index - half) : index + half + 1]
        line.append((x, math.fsum(y for _, y in near) / len(near)))
    return line


def smoothing_window(count: int) -> int:
    """An odd number of steps, about a tenth of all, at least 1."""
    return 2 * (count // 20) + 1


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About so many round numbers that span [low, high]: 1, 2 or 5 times a power of ten apart."""
    span = max(high - low, 1e-9)
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def draw(curve: Curve, ident: str) -> Markup:
    """The chart of `curve`; `ident` makes its element ids unique in the page."""
    xs = [x for x, _ in curve.points] + [marker.x for marker in curve.markers]
    y_ticks = ticks(*(curve.y_range or _range_of(curve)))
    place = Placing(max([*xs, 1]), y_ticks[0], y_ticks[-1])
    body = Markup("").join(
        [
            axis(place, y_ticks, curve.show),
            _line(smoothed(curve.points, smoothing_window(len(curve.points))), place),
            *(_dot(point, place, curve.show) for point in curve.points),
            *(_marker(marker, place, curve.show) for marker in curve.markers),
        ]
    )
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{i}-t {i}-d">'
        '<title id="{i}-t">{}</title><desc id="{i}-d">{}</desc>{}</svg>'
    ).format(WIDTH, HEIGHT, curve.title, curve.description, body, i=ident)


@dataclass(frozen=True, slots=True)
class Placing:
    """From values to the coordinates of the view box; x begins at 0."""

    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Where the step `value` is."""
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * value / self.x_high, 1)

    def y(self, value: float) -> float:
        """Where the value `value` is."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share, 1)


def axis(place: Placing, y_ticks: Sequence[float], show: Callable[[float], str]) -> Markup:
    """Grid lines with their values, and the steps below."""
    x_ticks = [x for x in ticks(0, place.x_high, 6) if x == int(x) and x <= place.x_high]
    return Markup("").join(
        [
            *(_y_tick(y, place, show) for y in y_ticks),
            *(_x_tick(x, place) for x in x_ticks),
            _axis_label(),
        ]
    )


def _range_of(curve: Curve) -> Point:
    ys = [y for _, y in curve.points] + [y for m in curve.markers for y in (m.low, m.high)]
    if not ys:
        return 0.0, 1.0
    low, high = min(ys), max(ys)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _y_tick(value: float, place: Placing, show: Callable[[float], str]) -> Markup:
    return Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
        '<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
    ).format(_LEFT, WIDTH - _RIGHT, _LEFT - 7, place.y(value) + 4.5, show(value), y=place.y(value))


def _x_tick(value: float, place: Placing) -> Markup:
    return Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{:g}</text>').format(
        place.x(value), HEIGHT - _BOTTOM + 18, value
    )


def _axis_label() -> Markup:
    return Markup('<text class="tick" x="{}" y="{}" text-anchor="end">step</text>').format(
        WIDTH - _RIGHT, HEIGHT - 5
    )


def _dot(point: Point, place: Placing, show: Callable[[float], str]) -> Markup:
    x, y = point
    return Markup('<circle class="dot" cx="{}" cy="{}" r="2.6"><title>{}</title></circle>').format(
        place.x(x), place.y(y), f"step {x:g}: {show(y)}"
    )


def _line(points: Sequence[Point], place: Placing) -> Markup:
    if len(points) < 2:
        return Markup("")
    path = " ".join(f"{place.x(x)},{place.y(y)}" for x, y in points)
    return Markup('<polyline class="curve" points="{}"/>').format(path)


def _marker(marker: Marker, place: Placing, show: Callable[[float], str]) -> Markup:
    x, y = place.x(marker.x) + marker.shift, place.y(marker.y)
    text = (
        f"{marker.label}: {show(marker.y)} (95% interval {show(marker.low)} to {show(marker.high)})"
    )
    return Markup(
        '<g class="marker{}"><title>{}</title><line x1="{x}" x2="{x}" y1="{}" y2="{}"/>'
        '<circle cx="{x}" cy="{}" r="5"/></g>'
    ).format(
        " hollow" if marker.hollow else "",
        text,
        place.y(marker.low),
        place.y(marker.high),
        y,
        x=x,
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
    """The shares at one step; they add up to 1."""

    step: float
    shares: Mapping[Outcome, float]


def outcome_shares(rows: Sequence[Mapping[str, object]]) -> list[OutcomeShares]:
    """The shares by step out of rows of metrics.jsonl; steps without a second pass are left out."""
    found: list[OutcomeShares] = []
    for row in rows:
        shares: dict[Outcome, float] = {}
        for name in OUTCOMES:
            share = row.get(f"outcome_{name}")
            if isinstance(share, int | float):
                shares[name] = float(share)
        step = row.get("step")
        if len(shares) == len(OUTCOMES) and isinstance(step, int):
            found.append(OutcomeShares(float(step), shares))
    return found


def draw_outcomes(points: Sequence[OutcomeShares], ident: str) -> Markup:
    """The stacked chart; `ident` makes its element ids unique in the page."""
    end = max(point.step for point in points)
    place = Placing(max(end, 1), 0.0, 1.0)
    window = smoothing_window(len(points))
    floor = [(point.step, 0.0) for point in points]
    bands: list[Markup] = []
    for name, meaning in MEANINGS.items():
        shares = smoothed([(point.step, point.shares[name]) for point in points], window)
        top = [(x, y + share) for (x, y), (_, share) in zip(floor, shares, strict=True)]
        bands.append(_band(name, meaning, floor, top, place))
        floor = top
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{i}-t {i}-d">'
        '<title id="{i}-t">Outcomes of the samples by step</title><desc id="{i}-d">{}</desc>'
        "{}{}</svg>"
    ).format(
        WIDTH,
        HEIGHT,
        described(points),
        Markup("").join(bands),
        axis(place, [0.0, 0.25, 0.5, 0.75, 1.0], "{:.0%}".format),
        i=ident,
    )


def described(points: Sequence[OutcomeShares]) -> str:
    """The picture in words: each share over the first and the last fifth of the steps."""
    fifth = max(len(points) // 5, 1)
    start, end = mean_shares(points[:fifth]), mean_shares(points[-fifth:])
    parts = [
        f"{name.replace('_', ' ')} {percent(start[name])}, then {percent(end[name])}"
        for name in MEANINGS
    ]
    return f"Shares over the first {fifth} and the last {fifth} steps: {'; '.join(parts)}."


def mean_shares(points: Sequence[OutcomeShares]) -> dict[Outcome, float]:
    """The mean of each share over at least one point."""
    return {name: math.fsum(p.shares[name] for p in points) / len(points) for name in OUTCOMES}


def _band(
    name: str,
    meaning: str,
    floor: Sequence[tuple[float, float]],
    top: Sequence[tuple[float, float]],
    place: Placing,
) -> Markup:
    edge = [*top, *reversed(floor)]
    path = " ".join(f"{place.x(x)},{place.y(y)}" for x, y in edge)
    return Markup('<polygon class="outcome {}" points="{}"><title>{}: {}</title></polygon>').format(
        name, path, name.replace("_", " "), meaning
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
