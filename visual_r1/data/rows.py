"""One row of a source: what it may look like, and what it must be to become a problem."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from visual_r1.data.fingerprint import Look
from visual_r1.data.images import BadImage, CheckedImage, check_image
from visual_r1.data.problem import IMAGE_MARKER, Problem
from visual_r1.grading import grade_answer

MAX_CHARACTERS = 50_000
MAX_IMAGES = 16

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row as its source gives it, not yet checked.

    `place` says where it stands ("train/17", "train.parquet row 5"). `defect` is set by the
    source where the row could not even be read; the other fields may then be empty.
    """

    place: str
    id: str
    images: tuple[bytes | None, ...] = ()
    problem: str | None = None
    answer: str | None = None
    choices: tuple[str, ...] = ()
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    defect: str | None = None


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """A problem that passed, with what finds duplicates: its images' pixel digests and looks."""

    problem: Problem
    pixels: tuple[bytes, ...]
    looks: tuple[Look, ...]


class BadRow(Exception):
    """The row cannot become a problem; the message says why."""


def check_row(row: SourceRow) -> CheckedRow:
    """The row as a problem: text, images and gold answer checked, images mended where they can be.

    Raises `BadRow` with the reason.
    """
    if row.defect is not None:
        raise BadRow(row.defect)
    if not row.id.strip():
        raise BadRow("the id is empty")
    text = _text(row.problem, "problem")
    answer = _text(row.answer, "answer").strip()
    text = _with_markers(text, len(row.images))
    verdict = grade_answer(answer, answer)
    if not verdict.right:
        raise BadRow(f"the gold answer {answer[:80]!r} does not grade as itself: {verdict.reason}")
    images = [_image(data, index) for index, data in enumerate(row.images, start=1)]
    return CheckedRow(
        Problem(
            id=row.id.strip(),
            images=tuple(image.data for image in images),
            problem=text,
            answer=answer,
            choices=row.choices,
            source=row.source,
            meta=row.meta,
        ),
        tuple(image.pixels for image in images),
        tuple(image.look for image in images),
    )


def _text(value: str | None, name: str) -> str:
    if value is None:
        raise BadRow(f"the {name} is missing")
    if not value.replace(IMAGE_MARKER, "").strip():
        raise BadRow(f"the {name} is empty")
    if len(value) > MAX_CHARACTERS:
        raise BadRow(f"the {name} has {len(value)} characters, more than {MAX_CHARACTERS}")
    if "\ufffd" in value or _CONTROL.search(value):
        raise BadRow(f"the {name} holds characters that are not text")
    return value


def _with_markers(text: str, images: int) -> str:
    """The text with one `<image>` an image; without any marker the images come first."""
    if not 0 < images <= MAX_IMAGES:
        raise BadRow(
            "there is no image" if not images else f"there are {images} images, over {MAX_IMAGES}"
        )
    markers = text.count(IMAGE_MARKER)
    if not markers:
        return IMAGE_MARKER * images + text
    if markers != images:
        raise BadRow(f"there are {markers} {IMAGE_MARKER} markers and {images} images")
    return text


def _image(data: bytes | None, number: int) -> CheckedImage:
    if data is None:
        raise BadRow(f"image {number} is missing")
    try:
        return check_image(data)
    except BadImage as error:
        raise BadRow(str(error) if number == 1 else f"image {number}: {error}") from error
