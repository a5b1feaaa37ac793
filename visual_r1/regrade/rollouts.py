"""The rollouts of a chunk, graded again: first passes, and second ones where there are any."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from visual_r1.errors import RunError
from visual_r1.grading import Grade, Rounding
from visual_r1.hashing import file_digest
from visual_r1.progress import Progress
from visual_r1.regrade.changes import (
    DROPPED,
    Changes,
    Example,
    Kind,
    Tallies,
    kind_of_reason,
    shown,
)
from visual_r1.regrade.evaluations import GRADED_SECOND
from visual_r1.regrade.files import (
    Basis,
    RegradedFile,
    Source,
    done_before,
    of_rollouts,
    write_record,
)
from visual_r1.regrade.golds import Gold, Thoughts
from visual_r1.regrade.graders import Again, Graders, Stored
from visual_r1.regrade.truths import Held
from visual_r1.runs.journal import ROLLOUTS, read_rollouts
from visual_r1.storage import replaced_whole
from visual_r1.tables import READ_ERRORS, open_table, open_writer, pa, table_digest

_BATCH = 1024
_NEEDED = (
    "step", "problem_id", "group", "sample", "response", "verdict", "reason",
)  # fmt: skip
_SECOND = ("second_verdict", "second_response", "second_order")
_WAY_OUT = "move it away to do without the rollouts of its steps"
_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("problem_id", pa.string()),
        ("group", pa.int32()),
        ("sample", pa.int32()),
        ("gold", pa.string()),
        ("answer", pa.string()),
        ("decision", pa.string()),
        ("extracted", pa.string()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("correct_exact", pa.bool_()),
        ("correct_rounded", pa.bool_()),
        ("second_verdict", pa.string()),
        ("verdict_before", pa.string()),
        ("reason_before", pa.string()),
        ("second_verdict_before", pa.string()),
    ]
)
Row = dict[str, Any]


def regrade_rollouts(
    chunk: Path,
    expected: str | None,
    rounding: Rounding,
    held: Held,
    thoughts: Thoughts,
    graders: Graders,
    progress: Progress,
) -> RegradedFile:
    """Grade the rollouts of a chunk again, into files of their own.

    `expected` is what the ledger says of the file. What is there on the same basis is returned as
    it is. Raises `RunError` where the file is damaged, or another than was written.
    """
    _require_as_written(chunk, expected)
    source, result = Source(chunk, _WAY_OUT, RunError), of_rollouts(chunk)
    basis = Basis(chunk.name, source.digest, rounding, held.digest, held.decisions_digest)
    if (there := done_before(result, basis)) is not None:
        progress.advance(source.rows)
        return there
    columns = [*_NEEDED, *(one for one in _SECOND if one in source.columns)]
    work = _Work(rounding, held.split("train"), thoughts, graders)
    with replaced_whole(result) as temporary, closing(open_writer(temporary, _SCHEMA)) as writer:
        for rows in source.batches(columns, _BATCH):
            writer.write_table(pa.Table.from_pylist(work.graded(rows), schema=_SCHEMA))
            progress.advance(len(rows))
    found = RegradedFile(
        basis=basis,
        graded=work.count,
        before=work.tallies.before.figures(0),
        after={one: tally.figures(0) for one, tally in work.tallies.after.items()},
        changes=work.changes.listed(),
        other_reasons=work.changes.other_reasons,
        not_graded=work.left,
        dropped=work.dropped,
        decided=tuple(sorted(work.decided)),
        steps=(min(work.steps), max(work.steps)) if work.steps else None,
        result_digest=file_digest(result),
    )
    write_record(result, found)
    return found


def rollouts_in(chunk: Path) -> int:
    """How many rollouts a chunk has; 0 where that cannot be read."""
    try:
        with open_table(chunk) as file:
            return file.metadata.num_rows
    except READ_ERRORS:
        return 0


def _require_as_written(chunk: Path, expected: str | None) -> None:
    """The ledger has a digest of the rows, and one of the bytes: a run that went back wrote the
    file anew, with the same rows."""
    if expected is None or expected.endswith(file_digest(chunk)):
        return
    found = table_digest(read_rollouts(chunk))
    if not expected.startswith(found):
        raise RunError(
            f"{chunk} is damaged: its rows have the digest {found}, and those that were written "
            f"had {expected[: len(found)]}; {_WAY_OUT}."
        )


class _Work:
    """The rollouts of a chunk as they are graded, and what they come to."""

    def __init__(
        self,
        rounding: Rounding,
        golds: Mapping[str, Gold],
        thoughts: Thoughts,
        graders: Graders,
    ) -> None:
        self._rounding: Rounding = rounding
        self._golds, self._thoughts, self._graders = golds, thoughts, graders
        self.tallies, self.changes = Tallies(), Changes()
        self.left: dict[str, int] = {}
        self.count = self.dropped = 0
        self.decided: set[str] = set()
        self.steps: set[int] = set()

    def graded(self, rows: Sequence[Row]) -> list[Row]:
        """The results of these rows; none of those whose problem was dropped or is not known."""
        first = self._thoughts.opens(ROLLOUTS, [row["response"] for row in rows])
        seconds = [text for row in rows if (text := row.get("second_response")) is not None]
        second = bool(seconds) and self._thoughts.opens("scan_only", seconds)
        held: list[tuple[Row, Gold]] = []
        for row in rows:
            self.steps.add(row["step"])
            gold = self._golds.get(row["problem_id"])
            if gold is None:
                why = f"the dataset has no training problem {row['problem_id']!r}"
                self.left[why] = self.left.get(why, 0) + 1
                continue
            right = row["verdict"] == "right"
            self.tallies.before.of_group(ROLLOUTS, _group(row), right=right)
            if gold.decided:
                self.decided.add(row["problem_id"])
            if gold.dropped:
                self.dropped += 1
                self._note(row, gold, row["verdict"], None)
                continue
            held.append((row, gold))
        stored: list[Stored] = []
        for row, gold in held:
            stored.append(gold.of(ROLLOUTS, row["response"], opens_think=first))
            if _was_read(row):
                text, order = row["second_response"], row.get("second_order")
                stored.append(gold.of("scan_only", text, opens_think=second, order=order))
        again = iter(self._graders.grade(stored))
        self.count += len(stored)
        return [self._row(row, gold, again) for row, gold in held]

    def _row(self, row: Row, gold: Gold, again: Any) -> Row:
        one: Again = next(again)
        grade = one.under(self._rounding)
        for rounding, tally in self.tallies.after.items():
            tally.of_group(ROLLOUTS, _group(row), right=one.under(rounding).right)
        self._note(row, gold, row["verdict"], one)
        second = row.get("second_verdict")
        if _was_read(row):
            read: Again = next(again)
            second = read.under(self._rounding).verdict
            right = row["second_verdict"] == "right"
            self.tallies.before.of_group("second_pass", _group(row), right=right)
            for rounding, tally in self.tallies.after.items():
                right = read.under(rounding).right
                tally.of_group("second_pass", _group(row), right=right)
            self._note(row, gold, row["second_verdict"], read, name="second_pass")
        return {
            "step": row["step"],
            "problem_id": row["problem_id"],
            "group": row["group"],
            "sample": row["sample"],
            "gold": gold.stored,
            "answer": gold.answer,
            "decision": "other" if gold.decided else "",
            "extracted": one.extracted,
            "verdict": grade.verdict,
            "reason": grade.reason,
            "correct_exact": one.exact.right,
            "correct_rounded": one.rounded.right,
            "second_verdict": second,
            "verdict_before": row["verdict"],
            "reason_before": row["reason"],
            "second_verdict_before": row.get("second_verdict"),
        }

    def _note(
        self, row: Row, gold: Gold, before: str, again: Again | None, name: str = ROLLOUTS
    ) -> None:
        grade = again.under(self._rounding) if again else Grade("wrong", "")
        kind = Kind(
            name=name,
            before=before,
            reason_before=kind_of_reason(row["reason"] or "") if name == ROLLOUTS else "",
            after=grade.verdict if again else DROPPED,
            reason=kind_of_reason(grade.reason),
            cause="decision" if gold.decided else "grader",
        )
        where = (
            f"problem {row['problem_id']}, step {row['step']}, group {row['group']}, "
            f"sample {row['sample']}"
        )
        answer = shown(again.extracted if again else None)
        self.changes.add(kind, Example(where, gold.answer, answer, grade.reason))


def _group(row: Row) -> tuple[int, int]:
    return row["step"], row["group"]


def _was_read(row: Row) -> bool:
    """Whether a second pass was asked, and graded."""
    return row.get("second_response") is not None and row.get("second_verdict") in GRADED_SECOND
