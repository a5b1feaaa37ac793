"""The engine as an ASGI application.

What every request must pass before anything looks at it: the key, and a bound on its size.

Calls of Tinker's SDK that this engine does not serve: each is answered with a sentence.

The status is 404, which the SDK raises at once as `NotFoundError` with the sentence; a 5xx would
have it try again for minutes.
"""

import hmac
import json

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visual_r1.engine.server.checkpoints import BadSignature, rest_routes
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.server.sampling import sampling_routes
from visual_r1.engine.server.session_calls import client_routes, session_routes
from visual_r1.engine.server.sessions import SessionOver, UnknownId
from visual_r1.engine.server.training import training_routes
from visual_r1.engine.store.store import CheckpointNotFound
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import VisualR1Error

OPEN_PATHS = ("/api/v1/healthz", "/api/v1/download/")
"""Paths without a key: the health check says nothing, a download's URL is signed."""

_DRAINED_AT_MOST = 1 << 30


class Gate:
    """ASGI middleware: 401 without the engine's key, 413 for a body over the limit."""

    def __init__(self, app: ASGIApp, api_key: str, body_limit: int) -> None:
        self._app = app
        self._key = api_key.encode()
        self._limit = body_limit
        self._too_large = (
            f"the request has more than {body_limit} bytes: "
            "send fewer or smaller images or data in one request."
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._may_enter(scope["path"], headers.get(b"x-api-key", b"")):
            await _answer(
                send,
                401,
                "the X-API-Key header does not hold this engine's key; give the client the key "
                "that the engine was started with (api_key, or TINKER_API_KEY).",
            )
            return
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._limit:
            await _drain(receive)
            await _answer(send, 413, self._too_large)
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

    def _may_enter(self, path: str, key: bytes) -> bool:
        return path.startswith(OPEN_PATHS) or hmac.compare_digest(key, self._key)


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


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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


def unserved_routes() -> APIRouter:
    """A route for each of them."""
    router = APIRouter()
    for (method, path), sentence in UNSERVED.items():
        router.add_api_route(path, _refusal(sentence), methods=[method], response_model=None)
    return router


def unknown_call(request: Request, error: Exception) -> JSONResponse:
    """A path or method that no route has; other HTTP errors keep their own words."""
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code in (404, 405):
        detail = (
            f"{request.method} {request.url.path} is no call that this engine serves; it speaks "
            "the protocol of the tinker SDK 0.38."
        )
    return JSONResponse({"detail": detail}, status_code=error.status_code)


def _refusal(sentence: str):
    async def refuse() -> JSONResponse:
        return JSONResponse({"detail": sentence}, status_code=404)

    return refuse


BODY_LIMIT = 64 << 20
"""Bytes of a request; the SDK keeps to 5 MB unless a single example is larger."""


def make_app(engine: Engine, api_key: str, body_limit: int = BODY_LIMIT) -> ASGIApp:
    """Return the application: all routes under /api/v1, behind the key and the size limit."""
    app = FastAPI(title="Visual R1 engine", docs_url=None, redoc_url=None, openapi_url=None)
    for router in (
        client_routes(engine),
        training_routes(engine, body_limit),
        sampling_routes(engine),
        rest_routes(engine),
        session_routes(engine),
        unserved_routes(),
    ):
        app.include_router(router, prefix="/api/v1")
    app.add_exception_handler(VisualR1Error, _refused)
    app.add_exception_handler(HTTPException, unknown_call)
    return Gate(app, api_key, body_limit)


def _refused(_: Request, error: Exception) -> JSONResponse:
    """What is raised on purpose, with a status that clients do not retry."""
    return JSONResponse({"detail": str(error)}, status_code=_status(error))


def _status(error: Exception) -> int:
    if isinstance(error, UnknownId | CheckpointNotFound):
        return 404
    if isinstance(error, SessionOver):
        return 410
    if isinstance(error, BadSignature):
        return 403
    # A full disk too: a 5xx would be retried for minutes without a word to the user.
    return 400 if isinstance(error, InvalidRequest) else 422
