"""`<image>` markers: one an image, at the place where the model sees it.

Some sets number them (`<image1>`, `<image 2>`). The first mention of a number is the image's place,
and images are put in the order of their first mentions; further mentions become words ("image 2").
Where there is one image and the numbers count 1, 2, ..., it holds them all.
"""

import re
from collections.abc import Sequence
from typing import TypeVar

from visual_r1.data.problem import IMAGE_MARKER

_NUMBERED = re.compile(r"<image[ _-]?(\d{1,3})>")
Image = TypeVar("Image")


class BadMarkers(Exception):
    """Markers and images do not go together; the message says why."""


def with_markers(text: str, images: Sequence[Image]) -> tuple[str, tuple[Image, ...]]:
    """The text with one `<image>` an image, and the images in their order.

    Without any marker the images come first. Raises `BadMarkers` where the numbers differ.
    """
    if IMAGE_MARKER not in text and (mentions := [int(n) for n in _NUMBERED.findall(text)]):
        return _numbered(text, images, list(dict.fromkeys(mentions)))
    markers = text.count(IMAGE_MARKER)
    if not markers:
        return IMAGE_MARKER * len(images) + text, tuple(images)
    if markers != len(images):
        raise BadMarkers(f"there are {markers} {IMAGE_MARKER} markers and {len(images)} images")
    return text, tuple(images)


def _numbered(
    text: str, images: Sequence[Image], order: Sequence[int]
) -> tuple[str, tuple[Image, ...]]:
    everything = len(images) == 1 and sorted(order) == list(range(1, len(order) + 1))
    if not everything and sorted(order) != list(range(1, len(images) + 1)):
        raise BadMarkers(
            f"the markers name the images {', '.join(map(str, order))}, and there are {len(images)}"
        )
    placed = set(order[1:]) if everything else set[int]()

    def place(found: re.Match[str]) -> str:
        number = int(found[1])
        if number in placed:
            return f"image {number}"
        placed.add(number)
        return IMAGE_MARKER

    text = _NUMBERED.sub(place, text)
    return text, tuple(images) if everything else tuple(images[number - 1] for number in order)
