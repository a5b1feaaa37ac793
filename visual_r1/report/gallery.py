"""Which problems the report shows: chosen by a rule, never by hand.

Problems fall into four kinds by what became of them: gained, lost, wrong both times, right both
times. Within a kind they stand in the order of a hash of their id, which knows nothing of picture,
question or outcome; the first few are shown.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visual_r1.evaluation.predictions import iterate_predictions
from visual_r1.hashing import stable_seed

RULE = (
    "Within each kind, problems are ordered by a hash of their id, which knows nothing of picture, "
    "question or answer, and the first are shown."
)
PER_KIND = 4

_VERDICT_COLUMNS = ("id", "correct")
_SHOWN_COLUMNS = (
    "id", "family", "question", "images", "answer", "response", "extracted", "verdict", "truncated",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """What one policy answered; `label` says how it was judged."""

    name: str
    response: str
    extracted: str | None
    label: str
    right: bool


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One problem of the gallery; pictures are data URIs."""

    id: str
    family: str
    question: str
    pictures: tuple[str, ...]
    answer: str
    given: tuple[Given, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """The problems that share a fate: how many there are, and those that are shown."""

    name: str
    explanation: str
    count: int
    exhibits: tuple[Exhibit, ...]


def before_and_after(before: Path, after: Path, per_kind: int = PER_KIND) -> list[Kind]:
    """The gallery of two evaluation folders, paired by problem id."""
    old = _verdicts(before)
    new = _verdicts(after)
    kinds = (
        ("Gained", "wrong before, right after", (False, True)),
        ("Lost", "right before, wrong after", (True, False)),
        ("Still wrong", "wrong before and after", (False, False)),
        ("Still right", "right before and after", (True, True)),
    )
    members = {
        name: [id for id in old if (old[id], new.get(id)) == fate] for name, _, fate in kinds
    }
    folders = {"before": before, "after": after}
    return _gallery([(n, e) for n, e, _ in kinds], members, folders, per_kind)


def one_evaluation(folder: Path, name: str, per_kind: int = PER_KIND) -> list[Kind]:
    """The gallery of a single evaluation: right ones and wrong ones."""
    verdicts = _verdicts(folder)
    kinds = (("Right", "the answer is right"), ("Wrong", "the answer is not right"))
    members = {
        "Right": [id for id, right in verdicts.items() if right],
        "Wrong": [id for id, right in verdicts.items() if not right],
    }
    return _gallery(kinds, members, {name: folder}, per_kind)


def _verdicts(folder: Path) -> dict[str, bool]:
    """Verdict by problem id, of those that were answered."""
    rows = iterate_predictions(folder, _VERDICT_COLUMNS)
    return {row["id"]: row["correct"] for row in rows if row["correct"] is not None}


def _gallery(
    kinds: Iterable[tuple[str, str]],
    members: Mapping[str, Sequence[str]],
    folders: Mapping[str, Path],
    per_kind: int,
) -> list[Kind]:
    chosen = {name: _first_by_hash(ids, per_kind) for name, ids in members.items()}
    wanted = {id for ids in chosen.values() for id in ids}
    rows = {name: _rows(folder, wanted) for name, folder in folders.items()}
    return [
        Kind(
            name,
            explanation,
            len(members[name]),
            tuple(_exhibit(id, rows) for id in chosen[name]),
        )
        for name, explanation in kinds
    ]


def _first_by_hash(ids: Iterable[str], count: int) -> list[str]:
    return sorted(ids, key=lambda id: (stable_seed("gallery", id), id))[:count]


def _rows(folder: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    rows = iterate_predictions(folder, _SHOWN_COLUMNS)
    return {row["id"]: row for row in rows if row["id"] in wanted}


def _exhibit(id: str, rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Exhibit:
    shown = next(iter(rows.values()))[id]
    return Exhibit(
        id=id,
        family=shown["family"],
        question=shown["question"],
        pictures=tuple(data_uri(image["bytes"]) for image in shown["images"]),
        answer=shown["answer"],
        given=tuple(_given(name, by_id[id]) for name, by_id in rows.items()),
    )


def _given(name: str, row: Mapping[str, Any]) -> Given:
    if row["verdict"] == "right":
        label = "right"
    elif row["verdict"] == "gave_up":
        label = "the grader gave up"
    elif row["extracted"] is None:
        label = "cut off before an answer" if row["truncated"] else "no answer found"
    else:
        label = "wrong"
    return Given(name, row["response"], row["extracted"], label, row["verdict"] == "right")


def data_uri(image: bytes) -> str:
    """An encoded PNG or JPEG as a data URI."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
