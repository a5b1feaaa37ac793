"""The page of all runs."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from visual_r1.pages.place import place_of
from visual_r1.pages.showing import show

router = APIRouter()


@router.get("/")
def listed(request: Request) -> Response:
    """All runs in a table."""
    place = place_of(request)
    return show(request, "runs.html.j2", names=sorted(place.runs()))
