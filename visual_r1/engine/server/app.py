"""The engine as an ASGI application: its routes, what a request must pass first, and refusals."""

import hmac
from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from visual_r1.engine.server import checkpoints, sampling, session_calls, training
from visual_r1.engine.server.bodies import Body, BodyLimit, read_body
from visual_r1.engine.server.checkpoints import BadSignature
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.server.held import TooMuchHeld
from visual_r1.engine.server.sessions import SessionOver, UnknownId
from visual_r1.engine.server.wire import API, BODY_LIMIT
from visual_r1.engine.store.store import CheckpointNotFound
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import VisualR1Error

OPEN_PATHS = (f"{API}/healthz", f"{API}/download/")
"""Paths without a key: the health check says nothing, a download's URL is signed."""

OFTEN: Mapping[str, Callable[[Engine, Body], Awaitable[Response]]] = {
    "/asample": sampling.asample,
    "/retrieve_future": session_calls.retrieve_future,
}
"""What answers the POSTs that a step sends for each of its problems."""

UNSERVED = {
    ("GET", "/audit"): "this engine keeps no audit log: it has one key and one user.",
    ("GET", "/billing/usage/events"): (
        "nothing is billed here; `tinker billing checkpoint-storage` tells of the disk."
    ),
    ("POST", "/auth/token"): (
        "this engine knows no accounts, only the key that it was started with (TINKER_API_KEY)."
    ),
    ("GET", "/auth/apikey/me"): (
        "this engine knows no accounts: instead of logging in, set TINKER_API_KEY to the key that "
        "it was started with, and TINKER_BASE_URL to its address."
    ),
    ("DELETE", "/auth/apikey/me"): (
        "the engine's key ends with the engine; start it again with another."
    ),
    ("POST", "/create_custom_loss"): (
        "custom losses run in the client here: leave the client's configuration as this engine "
        "gives it."
    ),
    ("POST", "/retrieve_futures"): (
        "results are fetched one by one here: leave the client's configuration as this engine "
        "gives it."
    ),
}
"""Calls of the SDK that have no route here, and why."""


def make_app(engine: Engine, api_key: str) -> FastAPI:
    """Return the application: all routes under /api/v1, behind the key and the size limit."""
    app = FastAPI(title="Visual R1 engine", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.engine = engine
    for module in (sampling, session_calls, training, checkpoints):
        app.include_router(module.router, prefix=API)
    # What is added last comes first: who has no key learns nothing of the limit.
    app.add_middleware(OftenAsked, engine=engine)
    app.add_middleware(
        BodyLimit,
        limit=BODY_LIMIT,
        context_length=engine.compute.context_length,
        binary=f"{API}/forward_backward",
    )
    app.add_middleware(KeyRequired, api_key=api_key)

    @app.exception_handler(VisualR1Error)
    async def refused(_: Request, error: VisualR1Error) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        """What is raised on purpose, with a status that clients do not retry."""
        return _refused(error)

    @app.exception_handler(RequestValidationError)
    async def misspelt(_: Request, error: RequestValidationError) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        """A part of the address, or a header, that cannot be read."""
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": f"{place}: {first['msg']}."}, status_code=422)

    @app.exception_handler(HTTPException)
    async def unserved(request: Request, error: HTTPException) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        """A path or method that no route has; other HTTP errors keep their own words.

        404 and 405 the SDK raises at once, with the sentence; a 5xx it would repeat for minutes.
        """
        detail = error.detail
        if error.status_code in (404, 405):
            call = (request.method, request.url.path.removeprefix(API))
            detail = UNSERVED.get(call) or (
                f"{request.method} {request.url.path} is no call that this engine serves; it "
                "speaks the protocol of the tinker SDK 0.38."
            )
        return JSONResponse({"detail": detail}, status_code=error.status_code)

    return app


def _refused(error: VisualR1Error) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=_status(error))


def _status(error: VisualR1Error) -> int:
    if isinstance(error, UnknownId | CheckpointNotFound):
        return 404
    if isinstance(error, SessionOver):
        return 410
    if isinstance(error, BadSignature):
        return 403
    if isinstance(error, TooMuchHeld):
        return 429  # which the SDK sends again in a second or more
    # A full disk too: a 5xx would be retried for minutes without a word to the user.
    return 400 if isinstance(error, InvalidRequest) else 422


class KeyRequired:
    """ASGI middleware: 401 without the engine's key."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(OPEN_PATHS):
            key = dict(scope["headers"]).get(b"x-api-key", b"")
            if not hmac.compare_digest(key, self._key):
                detail = (
                    "the X-API-Key header does not hold this engine's key; give the client the key "
                    "that the engine was started with (api_key, or TINKER_API_KEY)."
                )
                await JSONResponse({"detail": detail}, 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class OftenAsked:
    """ASGI middleware: answers the calls of `OFTEN` by themselves, without what FastAPI does for a
    route before and behind it: half of what such a request costs the event loop, which holds up
    what computes."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app = app
        self._engine = engine
        self._handlers = {f"{API}{path}": handle for path, handle in OFTEN.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handle = None
        if scope["type"] == "http" and scope["method"] == "POST":
            handle = self._handlers.get(scope["path"])
        if handle is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await handle(self._engine, await read_body(Request(scope, receive)))
        except VisualR1Error as error:
            response = _refused(error)
        except HTTPException as error:  # a body that is too large
            response = JSONResponse({"detail": error.detail}, error.status_code)
        await response(scope, receive, send)
