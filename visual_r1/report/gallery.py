"""Which problems the report shows: chosen by a rule, never by hand.

Problems are told apart by their fate: gained, lost, wrong both times, right both times. Within a
fate they stand in the order of a hash of their id, which knows nothing of picture, question or
outcome; the first few are shown, as many of each kind as there is room for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import escape

from visual_r1.evaluation.predictions import iterate_predictions
from visual_r1.grading import verdict_in_words
from visual_r1.hashing import in_hash_order
from visual_r1.report.pictures import data_uri

RULE = (
    "Within each kind, problems are ordered by a hash of their id, which knows nothing of picture, "
    "question or answer, and the first are shown."
)
PER_FATE = 4
LONGEST = 6000
"""Characters of a response that are shown; what is between its start and its end is left out."""

Draw = Callable[[bytes], str]
"""A stored picture as a data URI."""

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
class Fate:
    """What became of some problems: how many there are, and those that are shown."""

    name: str
    explanation: str
    count: int
    exhibits: tuple[Exhibit, ...]

    @property
    def key(self) -> str:
        """Its name in a filter's address."""
        return self.name.lower().replace(" ", "-")


def before_and_after(
    before: Path, after: Path, per_fate: int = PER_FATE, draw: Draw = data_uri
) -> list[Fate]:
    """The gallery of two evaluation folders, paired by problem id."""
    old, new = _right_by_id(before), _right_by_id(after)
    fates = {
        ("Gained", "wrong before, right after"): (False, True),
        ("Lost", "right before, wrong after"): (True, False),
        ("Still wrong", "wrong before and after"): (False, False),
        ("Still right", "right before and after"): (True, True),
    }
    return _gallery(
        {
            named: [id for id in old if (old[id], new.get(id)) == fate]
            for named, fate in fates.items()
        },
        {"before": before, "after": after},
        per_fate,
        draw,
    )


def one_evaluation(
    folder: Path, name: str, per_fate: int = PER_FATE, draw: Draw = data_uri
) -> list[Fate]:
    """The gallery of a single evaluation: right ones and wrong ones."""
    answered = _right_by_id(folder)
    members = {
        ("Right", "the answer is right"): [id for id, right in answered.items() if right],
        ("Wrong", "the answer is not right"): [id for id, right in answered.items() if not right],
    }
    return _gallery(members, {name: folder}, per_fate, draw)


def within(fates: Sequence[Fate], most_bytes: int) -> list[Fate]:
    """The fates with as many of their exhibits as take at most `most_bytes` of a page together.

    One of each fate is taken after the other, so that none crowds out the others.
    """
    kept = {fate.name: 0 for fate in fates}
    left = most_bytes
    for place in range(max((len(fate.exhibits) for fate in fates), default=0)):
        for fate in fates:
            if place >= len(fate.exhibits) or kept[fate.name] < place:
                continue
            left -= _size(fate.exhibits[place])
            if left < 0:
                break
            kept[fate.name] += 1
        if left < 0:
            break
    return [replace(fate, exhibits=fate.exhibits[: kept[fate.name]]) for fate in fates]


def _size(shown: Exhibit) -> int:
    """About the bytes that an exhibit takes of the page."""
    texts = [shown.question, *(given.response for given in shown.given)]
    return sum(map(len, shown.pictures)) + sum(len(escape(text).encode()) for text in texts) + 1500


def _right_by_id(folder: Path) -> dict[str, bool]:
    """Whether the answer was right by problem id, of those that were answered."""
    rows = iterate_predictions(folder, ("id", "correct"))
    return {row["id"]: row["correct"] for row in rows if row["correct"] is not None}


def _gallery(
    members: Mapping[tuple[str, str], Sequence[str]],
    folders: Mapping[str, Path],
    per_fate: int,
    draw: Draw,
) -> list[Fate]:
    """Ids by the name and explanation of a fate to what the page shows of them."""
    chosen = {named: in_hash_order("gallery", ids)[:per_fate] for named, ids in members.items()}
    wanted = {id for ids in chosen.values() for id in ids}
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name, folder in folders.items():
        # Both have the same pictures, and they are most of a file.
        columns = [one for one in _SHOWN_COLUMNS if one != "images" or not rows]
        found = iterate_predictions(folder, columns)
        rows[name] = {row["id"]: row for row in found if row["id"] in wanted}
    return [
        Fate(*named, len(ids), tuple(_exhibit(id, rows, draw) for id in chosen[named]))
        for named, ids in members.items()
    ]


def _exhibit(id: str, rows: Mapping[str, Mapping[str, Mapping[str, Any]]], draw: Draw) -> Exhibit:
    shown = next(iter(rows.values()))[id]
    return Exhibit(
        id=id,
        family=shown["family"],
        question=shown["question"],
        pictures=tuple(draw(image["bytes"]) for image in shown["images"]),
        answer=shown["answer"],
        given=tuple(_given(name, by_id[id]) for name, by_id in rows.items()),
    )


def _given(name: str, row: Mapping[str, Any]) -> Given:
    label = verdict_in_words(row["verdict"], row["extracted"], truncated=row["truncated"])
    return Given(
        name, _shortened(row["response"]), row["extracted"], label, row["verdict"] == "right"
    )


def _shortened(response: str) -> str:
    if len(response) <= LONGEST:
        return response
    head, tail = LONGEST * 2 // 3, LONGEST // 3
    return f"{response[:head]}\n[… {len(response):,} characters in all …]\n{response[-tail:]}"
