"""How pages are made of templates: the report's, a comparison's, a sweep's and those of `pages`."""

import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from visual_r1.wording import (
    duration,
    for_page,
    p_value_in_words,
    percent,
    percent_range,
    points,
    points_range,
)


def environment_of(
    package: str, finalize: Callable[[object], object] = for_page, **filters: Callable[..., Any]
) -> Environment:
    """The templates of `package`, with the filters that figures are written by and `filters`.

    What is not of our own markup is escaped, after `finalize` made it text.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {  # pyright: ignore[reportUnknownMemberType]
        "percent": percent,
        "percent_range": percent_range,
        "points": _points,
        "points_range": _points_range,
        "p_value": p_value_in_words,
        "duration": duration,
        "minus": with_minus,
        "words": words,
    } | filters
    return environment


def with_minus(text: str) -> str:
    """With real minus signs, which a terminal may not have; the hyphen of a name stays one."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text)


def _points(difference: float) -> str:
    return with_minus(points(difference))


def _points_range(interval: Sequence[float]) -> str:
    return with_minus(points_range(interval))


def words(name: object) -> str:
    """A name of the code in words."""
    return str(name).replace("_", " ")


def report_css() -> Markup:
    """The style sheet of the pages that need nothing but themselves."""
    css = files("visual_r1.report") / "templates" / "report.css"
    return Markup(css.read_text(encoding="utf-8"))
