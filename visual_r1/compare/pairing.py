"""The same problems in two evaluations: paired by id and by content.

The content is question, gold answer and pictures. An id that stands for one problem here and for
another there is in no pair; where that is so of more than a tenth, the two are evaluations of
different data, and are not compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visual_r1.compare.sides import Side
from visual_r1.errors import DataError
from visual_r1.evaluation.predictions import (
    PREDICTIONS_NAME,
    iterate_predictions,
    sampled_answers,
)
from visual_r1.evaluation.same import same_problems
from visual_r1.evaluation.samples import majority
from visual_r1.grading import Rounding
from visual_r1.hashing import content_digest
from visual_r1.tables import open_table, said_of

_READ = (
    "id", "family", "question", "answer", "images", "correct", "correct_exact", "correct_rounded",
    "k", "sampled_correct", "sampled_responses", "sampled_verdicts", "sampled_extracted",
)  # fmt: skip
_LATER = {"sampled_extracted"}  # what files of older versions do without
# Columns that are no pass of their own: the greedy one's, and a count.
_GREEDY = {"correct", "sampled_correct"}


@dataclass(frozen=True, slots=True)
class Row:
    """What one evaluation says about one problem.

    `right` is the greedy verdict, None where the request failed; `passes` are those of the other
    passes by their names, under the evaluation's own rounding. `majority` is the chance that the
    majority of its samples is right, None where there are none.
    """

    id: str
    content: str
    family: str
    right: bool | None
    passes: Mapping[str, bool | None]
    samples: int
    right_samples: int
    majority: float | None


@dataclass(frozen=True, slots=True)
class Paired:
    """The problems of two evaluations. `pairs` were answered in both; the rest are ids of those
    that were not, or are in one alone, or are another problem in the other."""

    pairs: tuple[tuple[Row, Row], ...]
    unanswered: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    other_content: tuple[str, ...]


def read_rows(side: Side, rounding: Rounding) -> dict[str, Row]:
    """The rows of an evaluation by id, with greedy verdicts under `rounding`.

    Raises `DataError` where the file is damaged, or has no verdict under this rounding.
    """
    path = side.folder / PREDICTIONS_NAME
    way_out = "evaluate again, or name another evaluation"
    with said_of(path, way_out), open_table(path) as file:
        names: Sequence[str] = file.schema_arrow.names
    if missing := [one for one in _READ if one not in names and one not in _LATER]:
        raise DataError(f"{path} has no column {', '.join(missing)}: {way_out}.")
    passes = [one for one in names if one.endswith("_correct") and one not in _GREEDY]
    own = side.report.conditions.compared
    verdict = "correct" if rounding == own else f"correct_{rounding}"
    found: dict[str, Row] = {}
    for row in iterate_predictions(side.folder, [*_READ, *passes]):
        if row["correct"] is not None and row[verdict] is None:
            raise DataError(
                f"{side.folder} was graded with rounding {own!r} and holds no verdicts with "
                f"{rounding!r}: leave --rounding out, or grade it again."
            )
        found[row["id"]] = Row(
            id=row["id"],
            content=_content(row),
            family=row["family"],
            right=row[verdict],
            passes={one.removesuffix("_correct"): row[one] for one in passes},
            samples=row["k"],
            right_samples=row["sampled_correct"],
            majority=_majority(row, own),
        )
    return found


def _content(row: Mapping[str, Any]) -> str:
    parts = [row["question"].encode(), row["answer"].encode()]
    parts += [image["bytes"] for image in row["images"] or () if image["bytes"] is not None]
    return content_digest(*(piece for one in parts for piece in (b"%d:" % len(one), one)))


def _majority(row: Mapping[str, Any], own: Rounding) -> float | None:
    if not row["k"]:
        return None
    rights = [verdict == "right" for verdict in row["sampled_verdicts"]]
    answers = list(zip(sampled_answers(row), rights, strict=True))
    return majority(answers, own)


def pair(first: Mapping[str, Row], second: Mapping[str, Row], names: tuple[str, str]) -> Paired:
    """Pair two evaluations, labelled `names`.

    Raises `DataError` where their data differ, or no problem was answered in both.
    """
    contents = {id: row.content for id, row in first.items()}
    same = same_problems(contents, {id: row.content for id, row in second.items()}, names)
    unanswered = [id for id in same if None in (first[id].right, second[id].right)]
    if len(unanswered) == len(same):
        a, b = names
        raise DataError(
            f"No problem was answered in both {a} and {b}: both were asked the same {len(same)}, "
            "and of each the request failed in one of the two. Evaluate again where they failed."
        )
    left = set(unanswered)
    return Paired(
        pairs=tuple((first[id], second[id]) for id in same if id not in left),
        unanswered=tuple(unanswered),
        only_first=tuple(id for id in first if id not in second),
        only_second=tuple(id for id in second if id not in first),
        other_content=tuple(
            id for id in first if id in second and first[id].content != second[id].content
        ),
    )
