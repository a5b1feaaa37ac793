"""Evaluations of runs: reports, predictions of sound files, and two of them paired by problem.

Accuracies are paired as everywhere here: the exact McNemar test, and Newcombe's interval
(`evaluation.statistics`). Nothing here needs torch, which is why a report is read for the figures
that a page shows and not as the whole it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from visual_r1.errors import DataError
from visual_r1.grading import verdict_in_words
from visual_r1.pages.queries import Session, names_of, parquet, quoted
from visual_r1.pages.reading import REPORT, ReportFigures, read_figures
from visual_r1.pages.sound import require_sound
from visual_r1.tables import open_table, said_of

PREDICTIONS = "predictions.parquet"
PAGE = 24

Fate = Literal["gained", "lost", "right", "wrong"]
FATES: Mapping[str, str] = {
    "gained": "wrong in A, right in B",
    "lost": "right in A, wrong in B",
    "wrong": "wrong in both",
    "right": "right in both",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One problem with what was answered to it; None where a pass was not made or failed.

    `others` are the other passes, by their names: the response, and whether it is right.
    """

    id: str
    family: str | None
    question: str | None
    answer: str | None
    pictures: int
    response: str | None
    extracted: str | None
    verdict: str | None
    reason: str | None
    truncated: bool | None
    response_tokens: int | None
    outcome: str | None
    sampled_correct: int | None
    k: int | None
    others: Mapping[str, Any]

    @property
    def label(self) -> str:
        """How it was judged, in words."""
        if self.response is None:
            return "no response came"
        return verdict_in_words(self.verdict, self.extracted, truncated=self.truncated)


@dataclass(frozen=True, slots=True)
class Right:
    """Whether a problem was answered right; None where no answer came. `content` is a digest of its
    question and gold answer, and of its pictures where these were asked for."""

    id: str
    family: str | None
    correct: bool | None
    content: str


_PREDICTIONS = TypeAdapter(Prediction)
_RIGHT = TypeAdapter(Right)
_COLUMNS: Mapping[str, str] = {
    "id": "VARCHAR", "family": "VARCHAR", "question": "VARCHAR", "answer": "VARCHAR",
    "response": "VARCHAR", "extracted": "VARCHAR", "verdict": "VARCHAR", "reason": "VARCHAR",
    "truncated": "BOOLEAN", "response_tokens": "INTEGER", "outcome": "VARCHAR",
    "sampled_correct": "INTEGER", "k": "INTEGER",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A complete evaluation: its folder, its report, and the columns of its predictions."""

    run: str
    name: str
    folder: Path
    report: ReportFigures
    columns: frozenset[str]

    @property
    def title(self) -> str:
        """What it is called among those of other runs."""
        return f"{self.run}, {self.name}"

    @property
    def others(self) -> tuple[str, ...]:
        """The passes besides the greedy one whose responses are kept."""
        ends = "_response"
        names = sorted(one.removesuffix(ends) for one in self.columns if one.endswith(ends))
        return tuple(name for name in names if f"{name}_correct" in self.columns)


def evaluations_of(run: str, run_dir: Path) -> tuple[list[Evaluation], list[str]]:
    """The complete evaluations of a run by name, and a sentence for each that is damaged."""
    found: list[Evaluation] = []
    faults: list[str] = []
    for path in sorted(run_dir.glob(f"evaluations/[!.]*/{REPORT}")):
        try:
            found.append(open_evaluation(run, path.parent))
        except DataError as error:
            faults.append(str(error))
    return found, faults


def open_evaluation(run: str, folder: Path) -> Evaluation:
    """An evaluation whose files are as they were written; raises `DataError` where they are not."""
    again = f"it is left out here; remove the folder {folder} and evaluate again"
    try:
        report = read_figures(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / REPORT} is damaged ({error}): {again}.") from error
    path = folder / PREDICTIONS
    require_sound(path, report.predictions_digest)
    with said_of(path, again), open_table(path) as file:
        columns = frozenset[str](file.schema_arrow.names)
    if missing := [name for name in ("id", "correct", "response") if name not in columns]:
        raise DataError(f"{path} has no column {missing[0]!r}: {again}.")
    return Evaluation(run, folder.name, folder, report, columns)


def predictions(
    session: Session, evaluation: Evaluation, ids: Sequence[str]
) -> dict[str, Prediction]:
    """What was answered to the problems with these ids, by id, in their order."""
    columns = [
        quoted(name) if name in evaluation.columns else f"NULL::{kind} AS {quoted(name)}"
        for name, kind in _COLUMNS.items()
    ]
    others = ", ".join(
        f"{quoted(name)}: {{response: {quoted(name + '_response')}, "
        f"is_right: {quoted(name + '_correct')}}}"
        for name in evaluation.others
    )
    pictures = "len(images)" if "images" in evaluation.columns else "0"
    rows = session.rows(
        _PREDICTIONS,
        f"SELECT {', '.join(columns)}, {pictures} AS pictures, "
        f"{f'{{{others}}}' if others else 'MAP {}'} AS others FROM {parquet('files')} "
        "WHERE list_contains($ids, id)",
        {"files": _file(evaluation), "ids": list(ids)},
    )
    by_id = {row.id: row for row in rows}
    return {id: by_id[id] for id in ids if id in by_id}


def right_by_id(
    session: Session, evaluation: Evaluation, text: str | None = None, *, pictures: bool = False
) -> list[Right]:
    """Whether each problem was answered right, in the order of the file.

    With `text`, of those alone in whose id, question, gold answer or response it is. `pictures`
    are read for the content: they are the same under the same id of one dataset.
    """
    looked = [
        name for name in ("id", "question", "answer", "response") if name in evaluation.columns
    ]
    has = " OR ".join(f"contains(lower({quoted(name)}), lower($text))" for name in looked)
    family = "family" if "family" in evaluation.columns else "NULL::VARCHAR AS family"
    content = [name for name in ("question", "answer") if name in evaluation.columns] or ["''"]
    if pictures and "images" in evaluation.columns:
        content.append("array_to_string([md5(one.bytes) for one in images], ' ')")
    return session.rows(
        _RIGHT,
        f"SELECT id, {family}, correct, md5(concat_ws(chr(31), {', '.join(content)})) AS content "
        f"FROM {parquet('files')} {f'WHERE {has}' if text is not None else ''}",
        {"files": _file(evaluation), "text": text},
    )


def prediction_picture(
    session: Session, evaluation: Evaluation, id: str, index: int
) -> bytes | None:
    """A picture of a problem that was evaluated; None where there is none of this number."""
    if "images" not in evaluation.columns:
        return None
    rows = session.rows(
        TypeAdapter(dict[str, bytes]),
        f"SELECT images[$index + 1].bytes AS bytes FROM {parquet('files')} "
        "WHERE id = $id AND len(images) > $index LIMIT 1",
        {"files": _file(evaluation), "id": id, "index": index},
    )
    return rows[0]["bytes"] if rows else None


def _file(evaluation: Evaluation) -> list[str]:
    return names_of([evaluation.folder / PREDICTIONS])
