"""The predictions of an evaluation, graded again: every pass of which the text is there."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import read_report
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, ROW_GROUP, require_predictions
from visual_r1.grading import Grade, Rounding
from visual_r1.hashing import file_digest
from visual_r1.policy.second_pass import outcome_of
from visual_r1.progress import Progress
from visual_r1.regrade.changes import (
    DROPPED,
    Changes,
    Example,
    Kind,
    Tallies,
    Tally,
    kind_of_reason,
    shown,
)
from visual_r1.regrade.files import (
    Basis,
    RegradedFile,
    Source,
    done_before,
    of_evaluation,
    write_record,
)
from visual_r1.regrade.golds import Gold, Thoughts
from visual_r1.regrade.graders import Again, Graders, Stored
from visual_r1.regrade.truths import Truths
from visual_r1.storage import replaced_whole
from visual_r1.tables import READ_ERRORS, open_table, open_writer, pa

# What a second pass may be that was asked, and graded.
GRADED_SECOND = ("right", "wrong", "gave_up")
_ROUNDINGS: tuple[Rounding, ...] = ("exact", "rounded")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Answer:
    """One stored response of a row, and what was said of it: its verdict, or only whether it is
    right. `sample` is its number among the samples, None in passes with one answer; `order` that of
    the choices which it was shown, None where nobody wrote it down."""

    name: str
    response: str
    verdict: str
    reason: str
    knows_verdict: bool
    sample: int | None = None
    order: str | None = None

    @property
    def right(self) -> bool:
        return self.verdict == "right"


def regrade_evaluation(
    folder: Path, truths: Truths, thoughts: Thoughts, graders: Graders, progress: Progress
) -> RegradedFile:
    """Grade the evaluation in `folder` again, into files of its own beside it.

    What is there on the same basis is returned as it is. Raises `DataError` where report or
    predictions are damaged, or not those of each other.
    """
    report = read_report(folder)
    require_predictions(folder)
    asked = report.conditions
    rounding = asked.compared
    held = truths.of(asked.dataset_digest)
    way_out = f"remove the folder {folder} and evaluate again"
    source = Source(folder / PREDICTIONS_NAME, way_out, DataError)
    basis = Basis(*(source.path.name, source.digest, rounding, held.digest, held.decisions_digest))
    result, names = of_evaluation(folder), passes_in(source.columns)
    slots = 1 + len(names) + report.k
    if (there := done_before(result, basis)) is not None:
        progress.advance(source.rows * slots)
        return there
    columns = [name for name in source.columns if held.needs_images or name != "images"]
    decided = bool(asked.decisions)

    def gold_of(row: Row) -> Gold | None:
        return held.gold(row, was_decided=decided)

    work = _Work(names, rounding, gold_of, thoughts, graders)
    schema = _schema(source.schema, names)
    with replaced_whole(result) as temporary, closing(open_writer(temporary, schema)) as writer:
        for rows in source.batches(columns, ROW_GROUP):
            graded = work.graded(rows)
            writer.write_table(pa.Table.from_pylist(graded, schema=schema))
            progress.advance(len(rows) * slots)
    found = RegradedFile(
        basis=basis,
        graded=work.count,
        before=work.tallies.before.figures(report.k),
        after={one: tally.figures(report.k) for one, tally in work.tallies.after.items()},
        changes=work.changes.listed(),
        other_reasons=work.changes.other_reasons,
        not_graded=work.left,
        dropped=work.dropped,
        decided=tuple(work.decided),
        result_digest=file_digest(result),
    )
    write_record(result, found)
    return found


def passes_in(columns: Sequence[str]) -> tuple[str, ...]:
    """The passes, besides greedy and sampled, whose texts a file has."""
    return tuple(
        name
        for name in (column.removesuffix("_response") for column in columns)
        if f"{name}_response" in columns and f"{name}_correct" in columns
    )


def responses_in(folder: Path) -> int:
    """About how many responses an evaluation has; 0 where that cannot be read."""
    try:
        with open_table(folder / PREDICTIONS_NAME) as file:
            return file.metadata.num_rows * (
                1 + len(passes_in(file.schema_arrow.names)) + read_report(folder).k
            )
    except (DataError, *READ_ERRORS):
        return 0


class _Work:
    """The rows of an evaluation as they are graded, and what they come to."""

    def __init__(
        self,
        names: Sequence[str],
        rounding: Rounding,
        gold_of: Callable[[Row], Gold | None],
        thoughts: Thoughts,
        graders: Graders,
    ) -> None:
        self._rounding: Rounding = rounding
        self._names, self._gold_of = names, gold_of
        self._thoughts, self._graders = thoughts, graders
        self.tallies, self.changes = Tallies(), Changes()
        self.left: dict[str, int] = {}
        self.count = self.dropped = 0
        self.decided: list[str] = []

    def graded(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with their new grades, without those of problems that were dropped."""
        golds = [self._gold_of(row) for row in rows]
        answers = [_answers(row, self._names) for row in rows]
        said: dict[str, list[str]] = {}
        for one in (answer for of_row in answers for answer in of_row):
            said.setdefault(one.name, []).append(one.response)
        opens = {name: self._thoughts.opens(name, texts) for name, texts in said.items()}
        stored: list[Stored] = [
            gold.of(one.name, one.response, opens_think=opens[one.name], order=one.order)
            for gold, of_row in zip(golds, answers, strict=True)
            if gold is not None and not gold.dropped
            for one in of_row
        ]
        again = iter(self._graders.grade(stored))
        self.count += len(stored)
        found: list[Row] = []
        for row, gold, of_row in zip(rows, golds, answers, strict=True):
            grades = None
            if gold is not None and not gold.dropped:
                grades = [next(again) for _ in of_row]
            if (made := self._row(row, gold, of_row, grades)) is not None:
                found.append(made)
        return found

    def _row(
        self, row: Row, gold: Gold | None, answers: Sequence[_Answer], grades: list[Again] | None
    ) -> Row | None:
        self._count(self.tallies.before, answers, [one.right for one in answers])
        if gold is None:
            why = "the dataset is not there, and the file does not say which choices were shown"
            self.left[why] = self.left.get(why, 0) + len(answers)
            for rounding in _ROUNDINGS:
                self._count(self.tallies.after[rounding], answers, [one.right for one in answers])
            return row | {"gold": row["answer"], "decision": ""}
        if gold.decided:
            self.decided.append(row["id"])
        if grades is None:
            self.dropped += 1
            for one in answers:
                self._note(row, gold, one, None)
            return None
        for rounding in _ROUNDINGS:
            rights = [one.under(rounding).right for one in grades]
            self._count(self.tallies.after[rounding], answers, rights)
        for one, grade in zip(answers, grades, strict=True):
            self._note(row, gold, one, grade)
        return _written(row, gold, answers, grades, self._rounding)

    def _count(self, tally: Tally, answers: Sequence[_Answer], rights: Sequence[bool]) -> None:
        sampled: list[bool] = []
        for one, right in zip(answers, rights, strict=True):
            if one.sample is None:
                tally.one(one.name, right=right)
            else:
                sampled.append(right)
        tally.several(sampled)

    def _note(self, row: Row, gold: Gold, one: _Answer, again: Again | None) -> None:
        grade = again.under(self._rounding) if again else Grade("wrong", "")
        after = grade.verdict if one.knows_verdict else ("right" if grade.right else "wrong")
        kind = Kind(
            name=one.name,
            before=one.verdict,
            reason_before=kind_of_reason(one.reason),
            after=after if again else DROPPED,
            reason=kind_of_reason(grade.reason),
            cause="decision" if gold.decided else "grader",
        )
        where = f"problem {row['id']}" + ("" if one.sample is None else f", sample {one.sample}")
        answer = shown(again.extracted if again else None)
        self.changes.add(kind, Example(where, gold.answer, answer, grade.reason))


def _answers(row: Row, names: Sequence[str]) -> list[_Answer]:
    """The responses of a row that are there, with what was said of them."""
    found: list[_Answer] = []
    if row["response"] is not None:
        found.append(_Answer("greedy", row["response"], row["verdict"], row["reason"], True))
    for name in names:
        response = row[f"{name}_response"]
        is_second = name == "scan_only"
        if response is None or (is_second and row["second_verdict"] not in GRADED_SECOND):
            continue
        verdict = "right" if row[f"{name}_correct"] else "wrong"
        if is_second:
            verdict = row["second_verdict"]
        # Without a scan choices stay in their order; a file that has none for the second pass is
        # of an older version, and so is its way of showing them.
        order = row.get("second_order") if is_second or "second_order" not in row else ""
        found.append(_Answer(name, response, verdict, "", is_second, order=order))
    texts, verdicts = row["sampled_responses"] or (), row["sampled_verdicts"] or ()
    found += [
        _Answer("sampled", text, verdict, "", True, number)
        for number, (text, verdict) in enumerate(zip(texts, verdicts, strict=True))
    ]
    return found


def _written(
    row: Row, gold: Gold, answers: Sequence[_Answer], grades: Sequence[Again], rounding: Rounding
) -> Row:
    """The row as it is kept: the columns of predictions.parquet, by the new grades."""
    made = row | {
        "answer": gold.answer,
        "gold": gold.stored,
        "decision": "other" if gold.decided else "",
    }
    pairs = list(zip(answers, grades, strict=True))
    for one, again in pairs:
        if one.sample is not None:
            continue
        prefix = "" if one.name == "greedy" else f"{one.name}_"
        grade = again.under(rounding)
        made |= {
            f"{prefix}extracted": again.extracted,
            f"{prefix}verdict": grade.verdict,
            f"{prefix}reason": grade.reason,
            f"{prefix}correct": grade.right,
            f"{prefix}correct_exact": again.exact.right,
            f"{prefix}correct_rounded": again.rounded.right,
        }
        if one.name == "scan_only":
            made["second_verdict"] = grade.verdict
    samples = [again for one, again in pairs if one.sample is not None]
    under = [again.under(rounding) for again in samples]
    made |= {
        "sampled_verdicts": [one.verdict for one in under],
        "sampled_reasons": [one.reason for one in under],
        "sampled_extracted": [one.extracted for one in samples],
        "sampled_correct": sum(one.right for one in under),
        "sampled_exact": [one.exact.right for one in samples],
        "sampled_rounded": [one.rounded.right for one in samples],
    }
    if made["outcome"] is not None:
        made["outcome"] = outcome_of(bool(made["correct"]), made["second_verdict"] == "right")
    return made


def _schema(source: Any, names: Sequence[str]) -> Any:
    """The columns of a result: those of the predictions without pictures, and the new ones."""
    fields = {one.name: one.type for one in source if one.name != "images"}
    fields |= {"gold": pa.string(), "decision": pa.string()}
    for column in ("sampled_reasons", "sampled_extracted"):
        fields[column] = pa.list_(pa.string())
    for column in ("sampled_exact", "sampled_rounded"):
        fields[column] = pa.list_(pa.bool_())
    for name in names:
        for column in ("extracted", "verdict", "reason"):
            fields[f"{name}_{column}"] = pa.string()
        for column in ("correct_exact", "correct_rounded"):
            fields[f"{name}_{column}"] = pa.bool_()
    return pa.schema(list(fields.items()))
