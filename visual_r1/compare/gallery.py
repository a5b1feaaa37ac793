"""Problems that were won and lost, with their pictures and both answers, for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visual_r1.compare.comparison import Against
from visual_r1.evaluation.predictions import iterate_predictions
from visual_r1.hashing import digest, in_hash_order
from visual_r1.report.gallery import data_uri

_READ = ("id", "family", "question", "images", "answer", "response", "extracted")
# Characters of a page's pictures, all together: a page that is sent to others stays below 5 MB.
MOST_PICTURED = 4_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What one evaluation answered."""

    label: str
    right: bool
    extracted: str | None
    response: str


@dataclass(frozen=True, slots=True)
class Shown:
    """One problem; `anchor` is its place on the page."""

    id: str
    anchor: str
    family: str
    question: str
    pictures: tuple[str, ...]
    answer: str
    answers: tuple[Answer, Answer]


@dataclass(frozen=True, slots=True)
class Changed:
    """Problems that were gained, or lost: those that are shown, and the ids of the rest."""

    name: str
    count: int
    shown: tuple[Shown, ...]
    rest: tuple[str, ...]


def anchor_of(label: str, id: str) -> str:
    """Where a problem stands on the page."""
    return f"p-{digest([label, id], 12)}"


def won_and_lost(reference: str, folder: str, found: Against, room: int) -> list[Changed]:
    """Both galleries of one comparison, with pictures of `room` characters at the most.

    Won and lost have half of it each. Within each, problems stand in the order of a hash of their
    id, which knows nothing of picture, question or answer.
    """
    wanted = set(found.gained) | set(found.lost)
    rows = [_rows(Path(one), wanted) for one in (folder, found.folder)]
    galleries: list[Changed] = []
    for name, ids in (("Gained", found.gained), ("Lost", found.lost)):
        shown: list[Shown] = []
        rest: list[str] = []
        left = room // 2
        for id in in_hash_order("gallery", ids):
            before, after = (by_id[id] for by_id in rows)
            pictures = tuple(data_uri(image["bytes"]) for image in before["images"] or ())
            left -= sum(map(len, pictures))
            if left < 0:
                rest.append(id)
                continue
            shown.append(
                Shown(
                    id=id,
                    anchor=anchor_of(found.label, id),
                    family=before["family"],
                    question=before["question"],
                    pictures=pictures,
                    answer=before["answer"],
                    answers=(
                        _answer(reference, before, right=name == "Lost"),
                        _answer(found.label, after, right=name == "Gained"),
                    ),
                )
            )
        galleries.append(Changed(name, len(ids), tuple(shown), tuple(rest)))
    return galleries


def _answer(label: str, row: Mapping[str, Any], *, right: bool) -> Answer:
    return Answer(label, right, row["extracted"], row["response"])


def _rows(folder: Path, wanted: set[str]) -> dict[str, Mapping[str, Any]]:
    found = iterate_predictions(folder, _READ)
    return {row["id"]: row for row in found if row["id"] in wanted}


def all_of(reference: str, folder: str, against: Sequence[Against]) -> dict[str, list[Changed]]:
    """The galleries by the labels of what was compared, all together on one page."""
    room = MOST_PICTURED // max(len(against), 1)
    return {one.label: won_and_lost(reference, folder, one, room) for one in against}
