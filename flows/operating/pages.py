"""The runs' pages on this machine: `python -m flows.operating.pages FOLDER PORT`.

A list of the runs, newest first, and each run's report with what it links to. To this machine's own
browser alone: a request under any other name of the host is refused, and so is every file but
those of a report.
"""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import uvicorn
from jinja2 import Environment
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from visual_r1.wording import printable

SHOWN = {".html", ".png", ".svg", ".jpg", ".jpeg", ".webp"}

_LIST = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Visual R1: runs</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884 }
</style></head><body><h1>Runs</h1>
{% if runs %}<table><tr><th>run</th><th>last change</th><th></th></tr>
{% for run in runs %}<tr><td>{{ run.name }}</td><td>{{ run.changed }}</td>
<td>{% if run.report %}<a href="/runs/{{ run.name | urlencode }}/report.html">report</a>
{% else %}no report yet{% endif %}</td></tr>{% endfor %}</table>
{% else %}<p>No run is in {{ folder }} yet.</p>{% endif %}</body></html>
"""


class Run(NamedTuple):
    """A row of the list."""

    name: str
    changed: str
    report: bool


def pages(folder: Path) -> Starlette:
    """The application that shows the runs in `folder`."""
    template = Environment(autoescape=True).from_string(_LIST)

    def listed(_: Request) -> Response:
        return HTMLResponse(template.render(runs=runs_in(folder), folder=printable(str(folder))))

    def file(request: Request) -> Response:
        path = (folder / request.path_params["path"]).resolve()
        inside = path.is_relative_to(folder.resolve())
        if not inside or path.suffix.lower() not in SHOWN or not path.is_file():
            return PlainTextResponse("There is no such page.", 404)
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    return Starlette(
        routes=[Route("/", listed), Route("/runs/", listed), Route("/runs/{path:path}", file)],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
        ],
    )


def runs_in(folder: Path) -> list[Run]:
    """The runs in `folder`, the one that changed last first; empty where it is not there."""
    found: list[tuple[float, Run]] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        ledger = next(
            (path / name for name in ("ledger.jsonl", "config.json") if (path / name).exists()),
            None,
        )
        if ledger is not None:
            changed = ledger.stat().st_mtime
            found.append(
                (
                    changed,
                    Run(
                        path.name,
                        datetime.fromtimestamp(changed, UTC).strftime("%Y-%m-%d %H:%M UTC"),
                        (path / "report.html").exists(),
                    ),
                )
            )
    return [run for _, run in sorted(found, key=lambda pair: pair[0], reverse=True)]


if __name__ == "__main__":
    uvicorn.run(
        pages(Path(sys.argv[1])),
        # In a container another, so that its port can be handed to the machine around it.
        host=os.environ.get("VISUAL_R1_PAGES_HOST", "127.0.0.1"),
        port=int(sys.argv[2]),
        log_level="warning",
    )
