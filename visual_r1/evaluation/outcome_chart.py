"""Seeing against thinking: the shares of the four outcomes by step, stacked, as inline SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visual_r1.evaluation.charts import HEIGHT, WIDTH, Placing, axis, smoothed, smoothing_window
from visual_r1.evaluation.wording import percent
from visual_r1.policy.second_pass import OUTCOMES, Outcome

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
