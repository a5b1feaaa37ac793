"""What every request must pass before anything looks at it: the key, and a bound on its size."""

import hmac
import json

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
