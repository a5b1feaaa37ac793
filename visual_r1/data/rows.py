"""One row of a source: what it may look like, and what it must be to become a problem.

A problem holds one `<image>` marker an image, at the place where the model sees it. Some sets
number theirs (`<image1>`, `<image 2>`): the first mention of a number is the image's place, and
images are put in the order of their first mentions; further mentions become words ("image 2").
Where there is one image and the numbers count 1, 2, ..., it holds them all.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from visual_r1.data.choices import BadChoice, with_choices
from visual_r1.data.fingerprint import Look
from visual_r1.data.images import BadImage, CheckedImage, check_image
from visual_r1.data.problem import IMAGE_MARKER, Problem
from visual_r1.grading import fault_of_gold, gold_text

MAX_CHARACTERS = 50_000
MAX_ID_CHARACTERS = 500
MAX_IMAGES = 16

# Control characters, halves of surrogate pairs, and the sign that a decoder leaves for a byte that
# it could not read.
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffd]")
# What tables write where there is no value.
_MISSING = frozenset(("nan", "null", "none", "<na>", "n/a", "#n/a"))
_NUMBERED_MARKER = re.compile(r"<image[ _-]?(\d{1,3})>")


class Row(Protocol):
    """A row as its source gives it, or what it will be drawn from: small then, to be sent about."""

    def read(self) -> "SourceRow":
        """The row itself."""
        ...


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row as its source gives it, not yet checked.

    `place` says where it stands ("train/17", "train.parquet row 5"). `defect` is set by the
    source where the row could not even be read; the other fields may then be empty. With
    `show_choices` the model is to see the choices. `answer_place` is that of the choice that is the
    answer, from 0, where the source names one by letter or number.
    """

    place: str
    id: str
    images: tuple[bytes | None, ...] = ()
    problem: str | None = None
    answer: str | None = None
    choices: tuple[str, ...] = ()
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    show_choices: bool = False
    answer_place: int | None = None
    defect: str | None = None

    def read(self) -> "SourceRow":
        """It is there already."""
        return self


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """A problem that passed, with what finds duplicates: its images' digests, looks and tiles."""

    problem: Problem
    pixels: tuple[bytes, ...]
    looks: tuple[Look, ...]
    tiles: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: a problem, or the reason why it cannot be one in `fault`."""

    place: str
    id: str
    checked: CheckedRow | None
    fault: str = ""


class BadRow(Exception):
    """The row cannot become a problem; the message says why."""


CheckImage = Callable[[bytes], CheckedImage]


def outcome_of(row: SourceRow, check: CheckImage = check_image) -> Outcome:
    """`check_row`, whatever comes of it."""
    try:
        return Outcome(row.place, row.id, check_row(row, check))
    except BadRow as error:
        return Outcome(row.place, row.id, None, str(error))


def check_row(row: SourceRow, check: CheckImage = check_image) -> CheckedRow:
    """The row as a problem: text, images and gold answer checked, images mended where they can be.

    Args:
        row: what the source gave.
        check: checks an image, as `check_image` does.

    Raises:
        BadRow: with the reason.
    """
    if row.defect is not None:
        raise BadRow(row.defect)
    id = _text(row.id, "id", MAX_ID_CHARACTERS).strip()
    text = _text(row.problem, "problem")
    answer = gold_text(_text(row.answer, "answer")).strip()
    choices = tuple(_text(choice, "choices", empty=True) for choice in row.choices)
    if answer.casefold() in _MISSING and answer not in choices:
        raise BadRow(f"the answer is missing: {answer!r} is what tables write for no value")
    if not row.images:
        raise BadRow("there is no image")
    if len(row.images) > MAX_IMAGES:
        raise BadRow(f"there are {len(row.images)} images, over {MAX_IMAGES}")
    try:
        text, answer, choices = with_choices(
            text, answer, choices, row.show_choices, row.answer_place
        )
    except BadChoice as error:
        raise BadRow(str(error)) from error
    text, sources = _with_markers(text, row.images)
    fault = _fault(answer)
    if fault is not None:
        raise BadRow(f"the gold answer {answer[:80]!r} does not grade as itself: {fault}")
    images = [_image(data, number, check) for number, data in enumerate(sources, start=1)]
    source = _text(row.source, "source", empty=True)
    try:
        json.dumps(row.meta, ensure_ascii=False, default=str).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise BadRow("meta holds characters that are not text, or is nested too deeply") from error
    problem = Problem(
        id=id,
        images=tuple(image.data for image in images),
        problem=text,
        answer=answer,
        choices=choices,
        source=source,
        meta=row.meta,
    )
    return CheckedRow(
        problem,
        tuple(image.pixels for image in images),
        tuple(image.look for image in images),
        tuple(image.tiles for image in images),
    )


def _text(value: str | None, name: str, most: int = MAX_CHARACTERS, *, empty: bool = False) -> str:
    """The text, line ends as they are here and without a byte order mark."""
    if value is None:
        raise BadRow(f"the {name} is missing")
    if not empty and not value.replace(IMAGE_MARKER, "").strip("\ufeff\u200b \t\r\n"):
        raise BadRow(f"the {name} is empty")
    if len(value) > most:
        raise BadRow(f"the {name} has {len(value)} characters, more than {most}")
    if _NOT_TEXT.search(value):
        raise BadRow(f"the {name} holds characters that are not text")
    return value.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")


def _with_markers(text: str, images: Sequence[bytes | None]) -> tuple[str, Sequence[bytes | None]]:
    """The text with one `<image>` an image, and the images in their order.

    Without any marker the images come first. Raises `BadRow` where the numbers differ.
    """
    mentions = [int(number) for number in _NUMBERED_MARKER.findall(text)]
    markers = text.count(IMAGE_MARKER)
    if markers or not mentions:
        if markers not in (0, len(images)):
            raise BadRow(f"there are {markers} {IMAGE_MARKER} markers and {len(images)} images")
        return text if markers else IMAGE_MARKER * len(images) + text, images
    order = list(dict.fromkeys(mentions))
    one_for_all = len(images) == 1 and sorted(order) == list(range(1, len(order) + 1))
    if not one_for_all and sorted(order) != list(range(1, len(images) + 1)):
        raise BadRow(
            f"the markers name the images {', '.join(map(str, order))}, and there are {len(images)}"
        )
    placed = set(order[1:]) if one_for_all else set[int]()

    def place(found: re.Match[str]) -> str:
        number = int(found[1])
        if number in placed:
            return f"image {number}"
        placed.add(number)
        return IMAGE_MARKER

    text = _NUMBERED_MARKER.sub(place, text)
    return text, images if one_for_all else [images[number - 1] for number in order]


@lru_cache(maxsize=4096)
def _fault(answer: str) -> str | None:
    """Why an answer does not grade as itself; a set has few different ones."""
    return fault_of_gold(answer)


def _image(data: bytes | None, number: int, check: CheckImage) -> CheckedImage:
    if data is None:
        raise BadRow(f"image {number} is missing")
    try:
        return check(data)
    except BadImage as error:
        raise BadRow(str(error) if number == 1 else f"image {number}: {error}") from error
