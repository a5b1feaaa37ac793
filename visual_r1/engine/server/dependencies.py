"""What the routes are given: the engine, a request's JSON, the checkpoint that its URL names."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from visual_r1.engine.server.bodies import Body, read_body
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.store.records import CheckpointPath, checkpoint_path
from visual_r1.errors import VisualR1Error

TheBody: TypeAlias = Annotated[Body, Depends(read_body)]
"""A body in JSON, and what tells it from others."""

Handler: TypeAlias = Callable[[Engine, Body], Awaitable[Response]]
"""What answers a request with such a body."""


async def content_of(body: TheBody) -> dict[str, Any]:
    """What a body holds."""
    return body.content


Json: TypeAlias = Annotated[dict[str, Any], Depends(content_of)]
"""A body as it came: what is wrong in a numbered request must fail its future, not the POST."""


async def engine_of(request: Request) -> Engine:
    """The engine that the application serves."""
    engine: Engine = request.app.state.engine
    return engine


OFTEN: dict[str, Handler] = {}
"""By the end of their path, what answers the POSTs that a step sends for each of its problems."""


def post_often(path: str) -> Callable[[Handler], Handler]:
    """Let `OftenAsked` answer such a POST, which has a JSON body."""

    def decorate(handle: Handler) -> Handler:
        OFTEN[path] = handle
        return handle

    return decorate


class OftenAsked:
    """ASGI middleware: answers the calls of `OFTEN` by themselves, without what FastAPI does for a
    route before and behind it: half of what such a request costs the event loop, which holds up
    what computes."""

    def __init__(
        self,
        app: ASGIApp,
        prefix: str,
        engine: Engine,
        refused: Callable[[VisualR1Error], Response],
    ) -> None:
        """`refused` says what a handler raised on purpose."""
        self._app = app
        self._handlers = {f"{prefix}{path}": handle for path, handle in OFTEN.items()}
        self._engine = engine
        self._refused = refused

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
            response = self._refused(error)
        except HTTPException as error:  # a body that is too large
            response = JSONResponse({"detail": error.detail}, error.status_code)
        await response(scope, receive, send)


TheEngine: TypeAlias = Annotated[Engine, Depends(engine_of)]

NamedCheckpoint: TypeAlias = Annotated[CheckpointPath, Depends(checkpoint_path)]
"""From the parts `{model_id}`, `{kind}` and `{name}` of the URL, checked."""
