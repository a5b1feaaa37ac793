"""The application: the pages' routers behind the guard."""

from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from visual_r1.errors import VisualR1Error
from visual_r1.pages import disputes, evaluations, run, runs, tokens, written
from visual_r1.pages.guard import Guard, own
from visual_r1.pages.place import NotThere, Place
from visual_r1.pages.showing import STATIC, show

ROUTERS: tuple[APIRouter, ...] = (
    runs.router,
    run.router,
    tokens.router,
    written.router,
    evaluations.router,
    disputes.router,
)


def pages(folder: Path, token: str, named: Sequence[Path] = ()) -> FastAPI:
    """The pages over the runs in `folder`/runs, or over those that are `named`.

    For who has `token`. `folder` is the working directory (`--output-dir`). A request that is not
    from this machine's own browser, or without the token or its cookie, sees nothing, see `guard`.
    """
    app = FastAPI(title="Visual R1", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.place, guard = Place(folder, tuple(named)), Guard(token)
    app.state.scoring = tokens.Scoring()
    app.add_middleware(BaseHTTPMiddleware, dispatch=guard)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for router in ROUTERS:
        app.include_router(router)

    @app.get("/share")
    def _shared(request: Request, of: str = "/") -> Response:  # pyright: ignore[reportUnusedFunction]
        """The address of a page with the token, for a colleague on this machine."""
        return PlainTextResponse(guard.shared(own(request), of))

    app.add_exception_handler(VisualR1Error, _sentence)
    app.add_exception_handler(404, _no_page)
    app.add_exception_handler(RequestValidationError, _no_value)
    return app


def _sentence(request: Request, error: Exception) -> Response:
    """What is wrong, in the sentence that the error has."""
    status = 404 if isinstance(error, NotThere) else 409
    return show(
        request, "wrong.html.j2", status=status, title="Not to be shown", sentence=str(error)
    )


def _no_value(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    name = fault["loc"][-1]
    if fault["type"] == "missing":
        sentence = f"The address is not whole: it does not say {name}."
    else:
        sentence = f"The address is wrong ({name}: {fault['msg']}): take that out of it."
    return show(request, "wrong.html.j2", status=422, title="Not to be shown", sentence=sentence)


def _no_page(request: Request, _: Exception) -> Response:
    sentence = "There is no such page: the address is not whole, or of another version."
    return show(request, "wrong.html.j2", status=404, title="No such page", sentence=sentence)
