"""The comparison as a picture: each setting's gain with its interval, and its seeds beside it.

A file of its own as well as a part of the page: so it carries its colours with it, for light and
dark, and no script.
"""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from visual_r1.report.charts import ticks
from visual_r1.sweeps.comparison import Comparison, SettingResult
from visual_r1.sweeps.table import ranked, row_of
from visual_r1.wording import points, points_range, printable

WIDTH, ROW, TOP, BOTTOM = 860, 34, 46, 44
_LEFT, _RIGHT = 300, 190
_LONGEST = 42  # characters of a label; the page's table has the whole

_STYLE = """
.sweep { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; --ink: #1b1f24;
  --soft: #565e68; --rule: #dfe2e6; --after: #0b5f8f; --paper: #fcfcfb; }
@media (prefers-color-scheme: dark) { .sweep { --ink: #e9ebee; --soft: #a7b0ba; --rule: #343b43;
  --after: #6cbde8; --paper: #14171b; } }
.sweep .ground { fill: var(--paper); }
.sweep text { fill: var(--ink); } .sweep .soft { fill: var(--soft); }
.sweep .chosen { font-weight: 700; }
.sweep .grid { stroke: var(--rule); } .sweep .zero { stroke: var(--soft); }
.sweep .span { stroke: var(--after); stroke-width: 2; }
.sweep .mean { fill: var(--after); } .sweep .seed { fill: none; stroke: var(--soft); }
"""


def forest(found: Comparison) -> Markup:
    """The picture, an `svg` element; empty where no setting was compared."""
    drawn = [one for one in ranked(found) if one.gain is not None]
    if not drawn:
        return Markup("")
    values = [0.0, *(end for one in drawn if one.gain for end in one.gain.ci95)]
    values += [gain for one in drawn for gain in _seeds(one)]
    marks = ticks(100 * min(values), 100 * max(values), 6)
    low, high = marks[0] / 100, marks[-1] / 100
    height = TOP + ROW * len(drawn) + BOTTOM

    def x(value: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low), 1)

    grid = Markup(
        '<line class="{}" x1="{x}" x2="{x}" y1="{}" y2="{}"/>'
        '<text class="soft" x="{x}" y="{}" text-anchor="middle">{}</text>'
    )
    body = [
        grid.format(
            "zero" if mark == 0 else "grid",
            TOP - 8,
            height - BOTTOM + 4,
            height - BOTTOM + 22,
            f"{mark:+g}" if mark else "0",
            x=x(mark / 100),
        )
        for mark in marks
    ]
    axis = Markup('<text class="soft" x="{}" y="{}" text-anchor="middle">{}</text>')
    body.append(
        axis.format((_LEFT + WIDTH - _RIGHT) / 2, height - 6, "points over the baseline, on test")
    )
    title = Markup('<text x="12" y="22">{}</text>')
    body.append(title.format(printable(f"Sweep {found.sweep}, {found.problems} test problems")))
    body += [
        _row(one, TOP + ROW * place + ROW / 2, x, chosen=one.label == found.chosen)
        for place, one in enumerate(drawn)
    ]
    said = "; ".join(": ".join(row_of(one, found.chosen)[::4][:2]) for one in drawn)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="sweep" viewBox="0 0 {w} {h}" '
        'width="{w}" height="{h}" role="img" aria-labelledby="sweep-t sweep-d">'
        '<title id="sweep-t">{}</title><desc id="sweep-d">{}</desc><style>{}</style>'
        '<rect class="ground" width="{w}" height="{h}"/>{}</svg>'
    ).format(
        f"Gains of the sweep {printable(found.sweep)}",
        printable(said),
        Markup(_STYLE),
        Markup("").join(body),
        w=WIDTH,
        h=height,
    )


def _seeds(one: SettingResult) -> Sequence[float]:
    """What each seed gained."""
    return [
        member.final - member.baseline
        for member in one.members
        if member.final is not None and member.baseline is not None
    ]


def _row(one: SettingResult, y: float, x: Callable[[float], float], *, chosen: bool) -> Markup:
    assert one.gain is not None, "only those that were compared are drawn"
    low, high = one.gain.ci95
    label = printable(one.label)
    label = label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"
    seeds = Markup("").join(
        Markup('<circle class="seed" cx="{}" cy="{}" r="3"/>').format(x(gain), y + 9)
        for gain in _seeds(one)
    )
    return Markup(
        '<g><title>{}</title><text class="{}" x="12" y="{}">{}</text>'
        '<line class="span" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
        '<circle class="mean" cx="{}" cy="{y}" r="5"/>{}'
        '<text class="soft" x="{}" y="{}">{}</text></g>'
    ).format(
        f"{printable(one.label)}: {points(one.gain.value)} ({points_range(one.gain.ci95)})",
        "chosen" if chosen else "other",
        y + 4.5,
        label,
        x(low),
        x(high),
        x(one.gain.value),
        seeds if one.gain.seeds > 1 else "",
        WIDTH - _RIGHT + 14,
        y + 4.5,
        f"{points(one.gain.value)} ({points_range(one.gain.ci95)})",
        y=y,
    )
