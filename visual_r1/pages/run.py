"""The page of one run."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from visual_r1.pages.place import place_of
from visual_r1.pages.showing import show

router = APIRouter()


@router.get("/runs/{name}")
def shown(request: Request, name: str) -> Response:
    """What there is of a run."""
    place_of(request).run(name)
    return show(request, "run.html.j2", name=name)
