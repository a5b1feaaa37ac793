"""Charts of the pages as SVG: several runs over each other, a run that grows, time by step.

As in `report.charts` there is no script in them and colours come from the style sheet. A curve
that grows carries its points and its scale as data, so that the page can add new ones (live.js).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visual_r1.report.charts import Point, Show, smoothed, smoothing_steps, ticks

WIDTH, HEIGHT = 400, 214
TIME_WIDTH, TIME_HEIGHT = 700, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 26
_MOST_DOTS = 400
"""With more steps than that the points lie upon each other, and the line says it all."""


@dataclass(frozen=True, slots=True)
class Line:
    """Values by step of one run; `kind` is the class of its colour."""

    name: str
    points: tuple[Point, ...]
    kind: str = "c1"


@dataclass(frozen=True, slots=True)
class Mark:
    """A measured value with its interval: an evaluation or a validation."""

    x: float
    y: float
    low: float
    high: float
    says: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Flag:
    """An alarm at a step."""

    x: float
    says: str
    pauses: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to the view box; steps begin at 0."""

    x_high: float
    y_low: float
    y_high: float
    width: int = WIDTH
    height: int = HEIGHT

    def x(self, value: float) -> float:
        """Where a step is."""
        return round(LEFT + (self.width - LEFT - RIGHT) * value / self.x_high, 1)

    def y(self, value: float) -> float:
        """Where a value is."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(self.height - BOTTOM - (self.height - TOP - BOTTOM) * share, 1)


def curves(
    title: str,
    lines: Sequence[Line],
    *,
    show: Show,
    marks: Sequence[Mark] = (),
    flags: Sequence[Flag] = (),
    y_range: Point | None = None,
    x_high: float = 0.0,
    grows: str = "",
) -> Markup:
    """Curves over each other; `grows` names the metric of the one whose new points are added."""
    xs = [x for line in lines for x, _ in line.points] + [mark.x for mark in marks]
    ys = [y for line in lines for _, y in line.points]
    ys += [y for mark in marks for y in (mark.low, mark.high)]
    low, high = y_range or (min(ys, default=0.0), max(ys, default=1.0))
    steps = ticks(low, high) if high > low else ticks(low - 0.5, high + 0.5)
    scale = Scale(max([*xs, x_high, 1.0]), steps[0], steps[-1])
    body = [_axes(scale, steps, show), *(_flag(flag, scale) for flag in flags)]
    body += [_line(line, scale, show) for line in lines]
    body += [_mark(mark, scale, show) for mark in marks]
    data = ""
    if grows:
        data = Markup(' data-grows="{}" data-scale="{}" data-points="{}"').format(
            grows,
            json.dumps([scale.x_high, scale.y_low, scale.y_high]),
            json.dumps([[x, round(y, 6)] for x, y in lines[0].points]) if lines else "[]",
        )
    return _svg("chart", title, body, scale, data)


def time_by_step(
    steps: Sequence[tuple[int, Sequence[float]]],
    phases: Sequence[str],
    *,
    marks: Sequence[tuple[float, str]] = (),
    x_high: float = 0.0,
) -> Markup:
    """Seconds of each phase, stacked at each step; the n-th phase has the class `phase-n`.

    Of many steps those that share a place are one column of their mean. `marks` are drawn above:
    what happened between two steps, a checkpoint or a validation, with its words.
    """
    end = max([step + 1.0 for step, _ in steps] + [x_high, 1.0])
    every = max(1, math.ceil(end / 240))
    columns: list[tuple[float, list[float]]] = []
    for begin in range(0, math.ceil(end), every):
        inside = [seconds for step, seconds in steps if begin <= step < begin + every]
        if inside:
            columns.append(
                (begin, [math.fsum(part) / len(inside) for part in zip(*inside, strict=True)])
            )
    high = max((math.fsum(seconds) for _, seconds in columns), default=1.0)
    y_ticks = ticks(0.0, high or 1.0, 4)
    scale = Scale(end, 0.0, y_ticks[-1], TIME_WIDTH, TIME_HEIGHT)
    body = [_axes(scale, y_ticks, "{:g} s".format)]
    bar = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>')
    for begin, seconds in columns:
        floor, left, right = 0.0, scale.x(begin), scale.x(begin + every)
        gap = 0.6 if right - left > 3 else 0.0
        which = f"step {begin:g}" if every == 1 else f"steps {begin:g} to {begin + every - 1:g}"
        for number, (phase, part) in enumerate(zip(phases, seconds, strict=True), 1):
            if part <= 0:
                continue
            top, foot = scale.y(floor + part), scale.y(floor)
            says = f"{which}, {phase}: {part:.2f} s of {math.fsum(seconds):.2f} s"
            width, height = round(right - left - gap, 2), round(foot - top, 2)
            body.append(bar.format(f"phase-{number}", left, top, width, height, says))
            floor += part
    tick = Markup('<path class="happened" d="M{} {}l-3.5 -6h7z"><title>{}</title></path>')
    body += [tick.format(scale.x(x), TOP - 2, says) for x, says in marks]
    return _svg("chart time", "Seconds by step and phase", body, scale)


def _svg(kind: str, title: str, body: Sequence[Markup], scale: Scale, data: str = "") -> Markup:
    return Markup(
        '<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"{}>{}</svg>'
    ).format(kind, scale.width, scale.height, title, data, Markup("").join(body))


def _axes(scale: Scale, y_ticks: Sequence[float], show: Show) -> Markup:
    x_ticks = [x for x in ticks(0, scale.x_high, 6) if x == int(x) and x <= scale.x_high]
    grid = Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
        '<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
    )
    step = Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{:g}</text>')
    return Markup("").join(
        [
            *(
                grid.format(LEFT, scale.width - RIGHT, LEFT - 8, y + 4, show(value), y=y)
                for value in y_ticks
                for y in [scale.y(value)]
            ),
            *(step.format(scale.x(value), scale.height - BOTTOM + 18, value) for value in x_ticks),
        ]
    )


def _line(line: Line, scale: Scale, show: Show) -> Markup:
    parts: list[Markup] = []
    dot = Markup('<circle class="dot" cx="{}" cy="{}" r="2.4"><title>{}</title></circle>')
    if len(line.points) <= _MOST_DOTS:
        for x, y in line.points:
            says = f"{line.name}{', ' if line.name else ''}step {x:g}: {show(y)}"
            parts.append(dot.format(scale.x(x), scale.y(y), says))
    smooth = smoothed(line.points, smoothing_steps(len(line.points)))
    path = " ".join(f"{scale.x(x)},{scale.y(y)}" for x, y in smooth)
    parts.append(Markup('<polyline class="curve" points="{}"/>').format(path))
    return Markup('<g class="line {}">{}</g>').format(line.kind, Markup("").join(parts))


def _mark(mark: Mark, scale: Scale, show: Show) -> Markup:
    says = f"{mark.says}: {show(mark.y)} (95% interval {show(mark.low)} to {show(mark.high)})"
    return Markup(
        '<g class="mark {}"><title>{}</title><line x1="{x}" x2="{x}" y1="{}" y2="{}"/>'
        '<circle cx="{x}" cy="{}" r="4.2"/></g>'
    ).format(
        mark.kind, says, scale.y(mark.low), scale.y(mark.high), scale.y(mark.y), x=scale.x(mark.x)
    )


def _flag(flag: Flag, scale: Scale) -> Markup:
    return Markup(
        '<g class="flag{}"><title>{}</title><line x1="{x}" x2="{x}" y1="{}" y2="{}"/>'
        '<path d="M{x} {}h9l-2.5 4 2.5 4h-9z"/></g>'
    ).format(
        " pauses" if flag.pauses else "",
        flag.says,
        TOP - 4,
        scale.height - BOTTOM,
        TOP - 4,
        x=scale.x(flag.x),
    )
