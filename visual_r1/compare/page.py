"""The comparison as one page that needs nothing but itself: no script, nothing loaded."""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from visual_r1.compare.comparison import Compared, SeedsCompared
from visual_r1.compare.gallery import Changed, all_of
from visual_r1.storage import write_text
from visual_r1.wording import (
    for_page,
    p_value_in_words,
    percent,
    percent_range,
    points,
    points_range,
)


def write_page(found: Compared | SeedsCompared, path: Path) -> set[str]:
    """Write the page to `path`; the anchors of the problems that it shows.

    Raises `StorageError` where the disk refuses it.
    """
    environment = Environment(
        loader=PackageLoader("visual_r1.compare"),
        autoescape=True,
        finalize=for_page,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        percent_range=percent_range,
        points=_with_minus(points),
        points_range=_with_minus(points_range),
        p_value=p_value_in_words,
        minus=_with_minus(str),
    )
    css = (files("visual_r1.report") / "templates" / "report.css").read_text(encoding="utf-8")
    galleries: Mapping[str, Sequence[Changed]] = {}
    if isinstance(found, Compared):
        galleries = all_of(found.reference, found.folder, found.against)
    page = environment.get_template("compare.html.j2").render(
        found=found,
        of_seeds=isinstance(found, SeedsCompared),
        css=Markup(css),
        galleries=galleries,
        scale=_scale(found),
    )
    write_text(path, page)
    return {
        one.anchor for changed in galleries.values() for gallery in changed for one in gallery.shown
    }


def _scale(found: Compared | SeedsCompared) -> float:
    """What half of the axis of differences is worth: a multiple of five points."""
    ends = [abs(end) for one in found.against for end in one.interval]
    return max(-(-max(ends, default=0.0) // 0.05), 1) * 0.05


def _with_minus(show: Callable[[Any], str]) -> Callable[[Any], str]:
    """The same with real minus signs."""
    return lambda value: re.sub(r"(?<![\w-])-(?=\d)", "−", show(value))
