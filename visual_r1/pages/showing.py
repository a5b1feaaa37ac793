"""How a page is written: templates that escape all that comes from outside, and texts that fold.

What a model, a dataset or a user wrote is text. It is escaped; what does not show or would turn
the text around it becomes a visible escape (`wording`); what is written from right to left stays
within its own `<bdi>`; of what is very long the beginning shows, and the rest unfolds on a click.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

from jinja2 import Environment
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from visual_r1.pages.marked import excerpt, marked
from visual_r1.report.templating import environment_of
from visual_r1.wording import printable

STATIC = Path(__file__).parent / "static"

SHOWN = 4_000
"""Characters of a text that show before it is unfolded."""


def show(request: Request, template: str, *, status: int = 200, **values: object) -> Response:
    """The page of `template` with `values`; `request` and what `base.html.j2` needs are there."""
    # Half a character, as in a name that is no text, is shown as what it is.
    text = written(request, template, **values).encode("utf-8", "backslashreplace")
    return HTMLResponse(text, status)


def written(request: Request, template: str, **values: object) -> str:
    """The text of `template`: a page, or a part of one that is fetched by itself."""
    return _environment().get_template(template).render(request=request, **values)


def said(text: str, shown: int = SHOWN) -> Markup:
    """What somebody else wrote, as text and nothing else; the rest of a long one unfolds."""
    begins = Markup('<bdi class="said">{}</bdi>').format(_all_of(text[:shown]))
    if len(text) <= shown:
        return begins
    return Markup(
        '{}<details class="rest"><summary>{:,} characters more</summary>'
        '<bdi class="said">{}</bdi></details>'
    ).format(begins, len(text) - shown, _all_of(text[shown:]))


def address(*parts: object, **query: object) -> str:
    """The address of a page: `address("runs", name, step=3)` is `/runs/NAME?step=3`.

    Parts are quoted whole, a slash in them too; what is None in the query is left out.
    """
    path = "/" + "/".join(quote(str(part), safe="") for part in parts)
    asked = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(asked)}" if asked else path


def ago(moment: datetime, now: datetime | None = None) -> str:
    """How long ago that was, in its largest unit: `3 h ago`."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def _all_of(text: str) -> str:
    return printable(text, lines=True, most=None)


def _finalized(value: object) -> object:
    """What comes from outside on its way into a page, a path too; markup of our own is as it is.

    A value that a form sends back goes through `exact`: escaped, and else as it is.
    """
    return value if isinstance(value, Markup) else _all_of(str(value))


def _attributes(values: Mapping[str, object]) -> Markup:
    """Attributes of an element, each escaped; those that are None are left out."""
    pairs = ((name, value) for name, value in values.items() if value is not None)
    return Markup(" ").join(Markup('{}="{}"').format(name, escape(value)) for name, value in pairs)


@cache
def _environment() -> Environment:
    environment = environment_of(
        "visual_r1.pages",
        _finalized,
        said=said,
        marked=marked,
        excerpt=excerpt,
        ago=ago,
        exact=escape,
        attributes=_attributes,
    )
    environment.globals["address"] = address  # pyright: ignore[reportUnknownMemberType]
    return environment
