"""A response in a page: its tags in colour, its answer to be seen, and all of it text.

Sections are what the prompt asks for, `<think>`, `<scan>`, `<answer>`, and `\\boxed{…}`. A tag that
is not closed colours what follows, as the grader would read it. What does not show, or would turn
the text around it, is an escape in a box of its own, with its name on it.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visual_r1.grading.spelling import matching_brace
from visual_r1.rewards.blindfold.masking import MASK, Mask
from visual_r1.wording import UNPRINTABLE

SHOWN = 4_000
"""Characters of a response that show before it is unfolded."""

_PLACE = re.compile(r"</?(think|scan|answer)>|\\boxed\s*\{|\[masked\]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a response of one kind; `is_tag` says that it is the tag itself.

    `kind` is "think", "scan", "answer", "boxed", "masked", or empty outside of all.
    """

    kind: str
    text: str
    is_tag: bool = False


def pieces_of(response: str) -> Iterator[Piece]:
    """The response in pieces, which joined are the response; linear in its length."""
    inside, at, boxed_to = "", 0, -1
    for found in _PLACE.finditer(response):
        start, end = found.span()
        if start < boxed_to:
            continue
        if start > at:
            yield Piece(inside, response[at:start])
        at = end
        if found[0] == MASK:
            yield Piece("masked", found[0])
        elif found[0].startswith("\\"):
            close = matching_brace(response, end)
            boxed_to = at = len(response) if close is None else close + 1
            yield Piece("boxed", response[start:at])
        else:
            opens = not found[0].startswith("</")
            yield Piece(found[1], found[0], is_tag=True)
            inside = found[1] if opens else ""
    if at < len(response):
        yield Piece(inside, response[at:])


def marked(response: str, shown: int = SHOWN) -> Markup:
    """The response as markup of ours around text of theirs; the rest of a long one unfolds."""
    pieces = list(pieces_of(response))
    head, tail = _cut(pieces, shown)
    begins = Markup('<bdi class="said response">{}</bdi>').format(_spans(head))
    if not tail:
        return begins
    return Markup(
        '{}<details class="rest"><summary>{:,} characters more</summary>'
        '<bdi class="said response">{}</bdi></details>'
    ).format(begins, len(response) - shown, _spans(tail))


def excerpt(text: str, sought: str | None = None) -> Markup:
    """A stretch of a response in a line of a table; what was looked for in it stands out."""
    if not sought:
        return Markup('<bdi class="said">{}</bdi>').format(visible(text))
    parts: list[Markup] = []
    at = 0
    for found in re.finditer(re.escape(sought), text, re.IGNORECASE):
        parts += [
            visible(text[at : found.start()]),
            Markup("<mark>{}</mark>").format(visible(found[0])),
        ]
        at = found.end()
    return Markup('<bdi class="said">{}</bdi>').format(
        Markup("").join([*parts, visible(text[at:])])
    )


def masked_scan(scan: str, masks: Sequence[Mask]) -> Markup:
    """A scan with what was masked in it struck out, and why on each."""
    parts: list[Markup] = []
    at = 0
    for mask in masks:
        parts.append(visible(scan[at : mask.start]))
        parts.append(
            Markup('<del class="masked">{}</del><small class="why">{}</small>').format(
                visible(scan[mask.start : mask.end]), " and ".join(mask.why)
            )
        )
        at = mask.end
    return Markup('<bdi class="said">{}</bdi>').format(
        Markup("").join([*parts, visible(scan[at:])])
    )


def visible(text: str) -> Markup:
    """Text with what does not show in it made visible."""
    parts: list[Markup] = []
    at = 0
    for found in UNPRINTABLE.finditer(text):
        character = found[0]
        if character in "\n\t":
            continue
        parts.append(Markup.escape(text[at : found.start()]))
        name = unicodedata.name(character, "a character that does not show")
        parts.append(
            Markup('<span class="unseen" title="{}">{}</span>').format(
                name.lower(), f"U+{ord(character):04X}"
            )
        )
        at = found.end()
    return Markup("").join([*parts, Markup.escape(text[at:])])


def _cut(pieces: Iterable[Piece], shown: int) -> tuple[list[Piece], list[Piece]]:
    head: list[Piece] = []
    tail: list[Piece] = []
    left = shown
    for piece in pieces:
        if left >= len(piece.text):
            head.append(piece)
        else:
            if left > 0:
                head.append(Piece(piece.kind, piece.text[:left], piece.is_tag))
            tail.append(Piece(piece.kind, piece.text[max(left, 0) :], piece.is_tag))
        left -= len(piece.text)
    return head, tail


def _spans(pieces: Sequence[Piece]) -> Markup:
    """Spans of classes that are ours; a section of several pieces stays one colour."""
    span = Markup('<span class="{}">{}</span>')
    return Markup("").join(
        span.format(f"in {piece.kind}{' at' if piece.is_tag else ''}", visible(piece.text))
        if piece.kind
        else visible(piece.text)
        for piece in pieces
    )
