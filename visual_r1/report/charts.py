"""Charts as inline SVG: no script, no fonts, colours from the page's style sheet.

What is drawn, and of which values, stands in `figures`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]
Show = Callable[[float], str]

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
    show: Show = "{:g}".format


@dataclass(frozen=True, slots=True)
class Layer:
    """One share by step in a stack of shares; `name` is its class in the style sheet."""

    name: str
    meaning: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Scale:
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

    def path(self, points: Sequence[Point]) -> str:
        """The points of a line or of the edge of an area."""
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)


def curve_chart(curve: Curve, ident: str) -> Markup:
    """The chart of `curve`; `ident` makes its element ids unique in the page."""
    xs = [x for x, _ in curve.points] + [marker.x for marker in curve.markers]
    ys = [y for _, y in curve.points] + [y for m in curve.markers for y in (m.low, m.high)]
    low, high = curve.y_range or (min(ys, default=0.0), max(ys, default=1.0))
    # A value that never changes lies in the middle.
    y_ticks = ticks(low, high) if high > low else ticks(low - 0.5, high + 0.5)
    scale = Scale(max([*xs, 1]), y_ticks[0], y_ticks[-1])
    line = smoothed(curve.points, smoothing_steps(len(curve.points)))
    body = [_axes(scale, y_ticks, curve.show)]
    if len(line) > 1:
        body.append(Markup('<polyline class="curve" points="{}"/>').format(scale.path(line)))
    dot = Markup('<circle class="dot" cx="{}" cy="{}" r="2.6"><title>{}</title></circle>')
    for x, y in curve.points:
        body.append(dot.format(scale.x(x), scale.y(y), f"step {x:g}: {curve.show(y)}"))
    body += [_marker(marker, scale, curve.show) for marker in curve.markers]
    return _svg(ident, curve.title, curve.description, body)


def stacked_chart(layers: Sequence[Layer], title: str, description: str, ident: str) -> Markup:
    """Shares that add up to 1 at every step, stacked from the bottom; all have the same steps."""
    xs = [x for x, _ in layers[0].points]
    scale = Scale(max(*xs, 1), 0.0, 1.0)
    floor = [(x, 0.0) for x in xs]
    body: list[Markup] = []
    for layer in layers:
        shares = smoothed(layer.points, smoothing_steps(len(xs)))
        top = [(x, y + share) for (x, y), (_, share) in zip(floor, shares, strict=True)]
        area = Markup('<polygon class="outcome {}" points="{}"><title>{}: {}</title></polygon>')
        edge = scale.path([*top, *reversed(floor)])
        name = layer.name.replace("_", " ")
        body.append(area.format(layer.name, edge, name, layer.meaning))
        floor = top
    body.append(_axes(scale, [0.0, 0.25, 0.5, 0.75, 1.0], "{:.0%}".format))
    return _svg(ident, title, description, body)


def smoothed(points: Sequence[Point], steps: int) -> list[Point]:
    """The centred mean over `steps` points, fewer at the ends."""
    half = steps // 2
    line: list[Point] = []
    for index, (x, _) in enumerate(points):
        near = points[max(0, index - half) : index + half + 1]
        line.append((x, math.fsum(y for _, y in near) / len(near)))
    return line


def smoothing_steps(count: int) -> int:
    """Over how many of `count` steps a line is smoothed: odd, about a tenth, at least 1."""
    return 2 * (count // 20) + 1


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About so many round numbers that span [low, high]: 1, 2 or 5 times a power of ten apart."""
    span = max(high - low, 1e-9)
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    # A hair below counts as reached: 2 * 0.1 may fall short of 0.2 in floating point.
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _svg(ident: str, title: str, description: str, body: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{i}-t {i}-d">'
        '<title id="{i}-t">{}</title><desc id="{i}-d">{}</desc>{}</svg>'
    ).format(WIDTH, HEIGHT, title, description, Markup("").join(body), i=ident)


def _axes(scale: Scale, y_ticks: Sequence[float], show: Show) -> Markup:
    """Grid lines with their values, and the steps below."""
    x_ticks = [x for x in ticks(0, scale.x_high, 6) if x == int(x) and x <= scale.x_high]
    grid = Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
        '<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
    )
    step = Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{:g}</text>')
    name = Markup('<text class="tick" x="{}" y="{}" text-anchor="end">step</text>')
    return Markup("").join(
        [
            *(
                grid.format(_LEFT, WIDTH - _RIGHT, _LEFT - 7, y + 4.5, show(value), y=y)
                for value in y_ticks
                for y in [scale.y(value)]
            ),
            *(step.format(scale.x(value), HEIGHT - _BOTTOM + 18, value) for value in x_ticks),
            name.format(WIDTH - _RIGHT, HEIGHT - 5),
        ]
    )


def _marker(marker: Marker, scale: Scale, show: Show) -> Markup:
    low, high = show(marker.low), show(marker.high)
    return Markup(
        '<g class="marker{}"><title>{}</title><line x1="{x}" x2="{x}" y1="{}" y2="{}"/>'
        '<circle cx="{x}" cy="{}" r="5"/></g>'
    ).format(
        " hollow" if marker.hollow else "",
        f"{marker.label}: {show(marker.y)} (95% interval {low} to {high})",
        scale.y(marker.low),
        scale.y(marker.high),
        scale.y(marker.y),
        x=scale.x(marker.x) + marker.shift,
    )
