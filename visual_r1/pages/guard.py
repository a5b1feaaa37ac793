"""Who may see the pages, and what a page may do in a browser.

The pages are for this machine alone, and on it for who has the token:

    http://127.0.0.1:4280/runs/NAME?token=…

Such an address is answered with a cookie and with the same address without the token, which then
works in that browser for good: the token stays over restarts, in `.visual-r1/pages/token`, which
its owner alone can read. `y` on a page gives its address with the token, for a colleague on the
same machine. The cookie is no token but derived from it, and named by the port: browsers send
cookies to all ports of a host.

A GET changes nothing. A POST needs the cookie and an `Origin` of our own, so no other site, and no
other port of this machine, makes one in its user's name. There is no CORS, and no page loads
anything that is not from here or runs a script that stands in it.
"""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from visual_r1.errors import StorageError
from visual_r1.opening import read_file
from visual_r1.storage import replaced_whole

TOKEN = "token"
HOSTS = ("127.0.0.1", "localhost")
_A_YEAR_S = 365 * 24 * 3600
_LARGEST_FORM = 2**16
_CHANGES_NOTHING = ("GET", "HEAD")
# The style sheet and the script hold nothing of anybody's runs.
_OPEN = "/static/"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # With no-referrer a browser sends the `Origin` of our own forms as null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of every answer that does not set its own."""

Answer = Callable[[Request], Awaitable[Response]]


def kept_token(folder: Path) -> str:
    """The token in `folder`, made there the first time; raises `StorageError`."""
    path = folder / "token"
    try:
        if path.exists() and (found := read_file(path, 200).decode("ascii").strip()):
            return found
        folder.mkdir(parents=True, exist_ok=True)
        made = secrets.token_urlsafe(18)
        with replaced_whole(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(made + "\n", encoding="ascii")
        return made
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"could not keep the pages' token in {path}: {error}. "
            "Choose another place with --output-dir."
        ) from error


def own(request: Request) -> str:
    """The origin of these pages, as the browser that asks has it."""
    return f"{request.url.scheme}://{request.url.netloc}"


async def posted(request: Request) -> dict[str, str]:
    """The fields of a form that was sent, each once; empty where none came, or far too much."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_FORM:
            return {}
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


class Guard:
    """Lets those in who have `token`; everybody's answers get the headers."""

    def __init__(self, token: str) -> None:
        self._token = token

    def cookie(self, port: int | None) -> tuple[str, str]:
        """Name and value of the cookie of the pages on `port`."""
        name = f"visual_r1_{port or 80}"
        return name, hmac.new(self._token.encode(), name.encode(), hashlib.sha256).hexdigest()

    def shared(self, base: str, of: str) -> str:
        """The address of the page `of` at the server `base`, with the token in it."""
        page = urlsplit("/" + of.lstrip("/"))
        query = urlencode([*parse_qsl(page.query, keep_blank_values=True), (TOKEN, self._token)])
        return base + urlunsplit(("", "", page.path, query, page.fragment))

    async def __call__(self, request: Request, answer: Answer) -> Response:
        """The answer, or why there is none, with the headers."""
        response = self._refusal(request) or await answer(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _refusal(self, request: Request) -> Response | None:
        if request.url.hostname not in HOSTS:
            return PlainTextResponse("These pages are for this machine alone.", 400)
        if request.url.path.startswith(_OPEN):
            return None
        given = request.query_params.get(TOKEN)
        if request.method in _CHANGES_NOTHING and given is not None:
            return self._let_in(request, given)
        name, value = self.cookie(request.url.port)
        if not secrets.compare_digest(request.cookies.get(name, "").encode(), value.encode()):
            return _not_known(request)
        if request.method not in _CHANGES_NOTHING and request.headers.get("origin") != own(request):
            return PlainTextResponse("Another site may not change anything here.", 403)
        return None

    def _let_in(self, request: Request, given: str) -> Response:
        """A cookie for the token, and the same address without it."""
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return _not_known(request)
        pairs = [(n, v) for n, v in request.query_params.multi_items() if n != TOKEN]
        # As it came, not decoded; one that begins with two slashes would name another host.
        path = request.scope["raw_path"].decode("ascii", "replace").partition("?")[0]
        target = "/" + path.lstrip("/") + (f"?{urlencode(pairs)}" if pairs else "")
        response = RedirectResponse(target, 303)
        name, value = self.cookie(request.url.port)
        response.set_cookie(name, value, max_age=_A_YEAR_S, httponly=True, samesite="strict")
        return response


_AGAIN = '<!doctype html><title>Visual R1</title><meta http-equiv="refresh" content="0">'
_UNKNOWN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Visual R1: not yet open here</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/static/pages.css"><script src="/static/keys.js"></script></head>
<body class="alone"><main><h1>Not yet open in this browser</h1>
<p>These pages are opened by an address with a token in it, once in each browser. It is the one
that <code>visual-r1 view</code> or <code>make up</code> printed; a colleague who has a page open
gets its address with the token by pressing <kbd>y</kbd>. Afterwards this address works here
too.</p></main></body></html>
"""


def _not_known(request: Request) -> Response:
    # From a link in a mail or a chat the browser leaves the cookie out; from our own page it
    # does not, and this one opens the same address once more.
    if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
        return HTMLResponse(_AGAIN, 401)
    return HTMLResponse(_UNKNOWN, 401)
