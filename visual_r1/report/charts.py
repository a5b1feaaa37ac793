"""Charts as inline SVG: no script, no fonts, colours from the page's style sheet.

What is drawn, and of which values, stands in `figures`. A long run has more steps than a chart has
room for: then means over equal bins of steps are drawn, at most `MOST_POINTS` of them.
"""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

Point = tuple[float, float]
Show = Callable[[float], str]

WIDTH, HEIGHT = 460, 280
MOST_POINTS = 400
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
    """One value by step in a stack of them; `name` is its class in the style sheet."""

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
    points, wide = in_bins(curve.points), bin_steps(len(curve.points))
    xs = [x for x, _ in curve.points] + [marker.x for marker in curve.markers]
    ys = [y for _, y in points] + [y for m in curve.markers for y in (m.low, m.high)]
    low, high = curve.y_range or (min(ys, default=0.0), max(ys, default=1.0))
    # A value that never changes lies in the middle.
    y_ticks = ticks(low, high) if high > low else ticks(low - 0.5, high + 0.5)
    scale = Scale(max([*xs, 1]), y_ticks[0], y_ticks[-1])
    line = smoothed(points, smoothing_steps(len(points)))
    body = [_axes(scale, y_ticks, curve.show)]
    dot = Markup('<circle class="dot" cx="{}" cy="{}" r="2.6"><title>{}</title></circle>')
    for x, y in points:
        which = f"step {x:g}" if wide == 1 else f"{wide} steps around {x:.0f}, on average"
        body.append(dot.format(scale.x(x), scale.y(y), f"{which}: {curve.show(y)}"))
    if len(line) > 1:
        body.append(Markup('<polyline class="curve" points="{}"/>').format(scale.path(line)))
    body += [_marker(marker, scale, curve.show) for marker in curve.markers]
    return _svg(ident, curve.title, curve.description, body)


def stacked_chart(
    layers: Sequence[Layer],
    title: str,
    description: str,
    ident: str,
    show: Show | None = None,
) -> Markup:
    """Values stacked from the bottom; all layers have the same steps.

    Without `show` they are shares that add up to 1 at every step; with it amounts, which it writes.
    """
    stack = [in_bins(layer.points) for layer in layers]
    xs = [x for x, _ in stack[0]]
    if show is None:
        stack = [smoothed(points, smoothing_steps(len(xs))) for points in stack]
    highest = max(math.fsum(points[at][1] for points in stack) for at in range(len(xs)))
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if show is None else ticks(0.0, highest or 1.0)
    scale = Scale(max(*(x for x, _ in layers[0].points), 1), 0.0, y_ticks[-1])
    floor = [(x, 0.0) for x in xs]
    body: list[Markup] = []
    for layer, values in zip(layers, stack, strict=True):
        top = [(x, y + value) for (x, y), (_, value) in zip(floor, values, strict=True)]
        area = Markup('<polygon class="outcome {}" points="{}"><title>{}: {}</title></polygon>')
        # One step alone has an area as well.
        ends = [*top, (top[-1][0] + 1, top[-1][1])] if len(top) == 1 else top
        base = [*floor, (floor[-1][0] + 1, floor[-1][1])] if len(floor) == 1 else floor
        edge = scale.path([*ends, *reversed(base)])
        name = layer.name.replace("_", " ")
        body.append(area.format(layer.name, edge, name, layer.meaning))
        floor = top
    body.append(_axes(scale, y_ticks, show or "{:.0%}".format))
    return _svg(ident, title, description, body)


def bin_steps(count: int) -> int:
    """Over how many steps a point of a chart is the mean, where there are `count` of them."""
    return -(-count // MOST_POINTS) if count else 1


def in_bins(points: Sequence[Point]) -> list[Point]:
    """The points as a chart has room for them: means over `bin_steps` neighbours each."""
    wide = bin_steps(len(points))
    if wide == 1:
        return list(points)
    bins = [points[start : start + wide] for start in range(0, len(points), wide)]
    return [
        (math.fsum(x for x, _ in one) / len(one), math.fsum(y for _, y in one) / len(one))
        for one in bins
    ]


def smoothed(points: Sequence[Point], steps: int) -> list[Point]:
    """The centred mean over `steps` points, fewer at the ends."""
    half = steps // 2
    line: list[Point] = []
    for index, (x, _) in enumerate(points):
        near = points[max(0, index - half) : index + half + 1]
        line.append((x, math.fsum(y for _, y in near) / len(near)))
    return line


def smoothing_steps(count: int) -> int:
    """Over how many of `count` points a line is smoothed: odd, about a tenth, at least 1."""
    return 2 * (count // 20) + 1


def whole_svg(chart: str) -> str:
    """A chart of the page as a file of its own: with the colours that the page's style sheet gives
    it, those of a dark page too."""
    css = (files("visual_r1.report") / "templates" / "report.css").read_text(encoding="utf-8")
    colours, _, rest = css.partition("* { box-sizing")
    rules = [line for line in rest.splitlines() if line.startswith((".chart", ".outcome"))]
    style = "".join([colours.replace("color-scheme: light dark;", ""), *rules])
    paper = '<rect width="100%" height="100%" style="fill:var(--card)"/>'
    head, rest = str(chart).split(">", 1)  # Markup would escape what is put into it
    head = head.replace(
        "<svg", f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"', 1
    )
    return f"{head}><style>{style}</style>{paper}{rest}"


def chart_uri(chart: str) -> str:
    """`whole_svg` as a data URI."""
    return svg_uri(whole_svg(chart))


def svg_uri(svg: str) -> str:
    """A file of SVG as a data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"


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
