"""Calls of Tinker's SDK that this engine does not serve: each is answered with a sentence.

The status is 404, which the SDK raises at once as `NotFoundError` with the sentence; a 5xx would
have it try again for minutes.
"""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

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
