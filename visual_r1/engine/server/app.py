"""The engine as an ASGI application: its routes, what a request must pass first, and refusals."""

import hmac

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visual_r1.engine.server import checkpoints, sampling, session_calls, training
from visual_r1.engine.server.checkpoints import BadSignature
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.server.sessions import SessionOver, UnknownId
from visual_r1.engine.server.wire import API, BODY_LIMIT
from visual_r1.engine.store.store import CheckpointNotFound
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import VisualR1Error

OPEN_PATHS = (f"{API}/healthz", f"{API}/download/")
"""Paths without a key: the health check says nothing, a download's URL is signed."""

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

_DRAINED_AT_MOST = 1 << 30


def make_app(engine: Engine, api_key: str) -> FastAPI:
    """Return the application: all routes under /api/v1, behind the key and the size limit."""
    app = FastAPI(title="Visual R1 engine", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.engine = engine
    for module in (session_calls, training, sampling, checkpoints):
        app.include_router(module.router, prefix=API)
    # What is added last comes first: who has no key learns nothing of the limit.
    app.add_middleware(BodyLimit, limit=BODY_LIMIT)
    app.add_middleware(KeyRequired, api_key=api_key)

    @app.exception_handler(VisualR1Error)
    async def refused(_: Request, error: VisualR1Error) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        """What is raised on purpose, with a status that clients do not retry."""
        return JSONResponse({"detail": str(error)}, status_code=_status(error))

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


def _status(error: VisualR1Error) -> int:
    if isinstance(error, UnknownId | CheckpointNotFound):
        return 404
    if isinstance(error, SessionOver):
        return 410
    if isinstance(error, BadSignature):
        return 403
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


class BodyLimit:
    """ASGI middleware: 413 for a body over the limit, announced or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._too_large = (
            f"the request has more than {limit} bytes: "
            "send fewer or smaller images or data in one request."
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._limit:
            await _drain(receive)
            await JSONResponse({"detail": self._too_large}, 413)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                if message.get("more_body", False):
                    await _drain(receive)
                raise HTTPException(413, self._too_large)
            return message

        await self._app(scope, counted, send)


async def _drain(receive: Receive) -> None:
    """Read the rest and throw it away.

    A client whose connection is cut while it sends takes that for a lost connection and sends
    everything again.
    """
    drained = 0
    while drained < _DRAINED_AT_MOST:
        message = await receive()
        drained += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
