"""The engine as an ASGI application."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from visual_r1.engine.client_routes import client_routes
from visual_r1.engine.downloads import BadSignature
from visual_r1.engine.gate import Gate
from visual_r1.engine.requests import InvalidRequest
from visual_r1.engine.rest import rest_routes
from visual_r1.engine.sampling_routes import sampling_routes
from visual_r1.engine.service import Engine
from visual_r1.engine.session_routes import session_routes
from visual_r1.engine.sessions import SessionOver, UnknownId
from visual_r1.engine.store import CheckpointNotFound
from visual_r1.engine.training_routes import training_routes
from visual_r1.engine.unserved import unknown_call, unserved_routes
from visual_r1.errors import VisualR1Error

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
