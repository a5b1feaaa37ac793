"""What people decided about labels in dispute: `disputes.jsonl` in the working directory.

A row a decision, in the order in which they were made, chained by the rule of `jsonl`; the newest
about a problem holds. For example:

{"problem_id": "1207", "content": "5b0a…", "decision": "other", "answer": "12.5", "gold": "25",
 "who": "ada", "when": "2026-05-01T10:00:00+00:00", "why": "the diameter was taken for the radius",
 "chain": "…"}

    gold        the gold answer is right, whatever the policy says: no dispute any more
    other       `answer` is right, in place of the gold one
    drop        the problem cannot be answered as it stands: nobody is asked, nothing is counted
    withdrawn   none of these any more

A decision is about a problem by its id and by a digest of its question, its figures and its gold
answer: so it goes with the problem into a dataset that is prepared anew, and hits no other problem
that has the same id, nor the same one where its label was mended at the source.
"""

import getpass
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import TypeAdapter

from visual_r1.data.problem import Problem
from visual_r1.errors import DataError, StorageError
from visual_r1.grading import fault_of_gold, is_equivalent
from visual_r1.hashing import content_digest
from visual_r1.jsonl import JsonLines
from visual_r1.printing import open_logger

logger = open_logger(__name__)

DISPUTES_FILE = "disputes.jsonl"
Kind = Literal["gold", "other", "drop", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about the label of one problem.

    `content` is the digest of `content_of`; `answer` is the right one of "other", else empty;
    `gold` is the gold answer that was decided about. `when` is ISO 8601 in UTC.
    """

    problem_id: str
    content: str
    decision: Kind
    answer: str
    gold: str
    who: str
    when: str
    why: str

    @property
    def changes_label(self) -> bool:
        """Whether problems are graded or asked otherwise because of it."""
        return self.decision in ("other", "drop")


_ROWS = TypeAdapter(Decision)


@dataclass(frozen=True, slots=True)
class Decisions:
    """All decisions that were made, oldest first, and by (problem id, content) the ones that hold.

    A decision that was withdrawn holds no more.
    """

    rows: tuple[Decision, ...] = ()
    in_force: Mapping[tuple[str, str], Decision] = field(
        default_factory=dict[tuple[str, str], Decision]
    )

    @classmethod
    def of(cls, rows: Iterable[Decision]) -> "Decisions":
        """What `rows`, oldest first, come to."""
        found = tuple(rows)
        newest = {(one.problem_id, one.content): one for one in found}
        held = {key: one for key, one in newest.items() if one.decision != "withdrawn"}
        return cls(found, held)

    def about(self, problem_id: str, content: str) -> Decision | None:
        """The one that holds about a problem."""
        return self.in_force.get((problem_id, content))


def content_of(question: str, answer: str, images: Iterable[bytes]) -> str:
    """The digest of a problem's content: `question` without its image markers, the stored gold
    answer, and the figures' encoded files in order."""
    parts = (question.encode(), answer.encode(), *images)
    return content_digest(*(piece for one in parts for piece in (b"%d:" % len(one), one)))


def content_of_problem(problem: Problem) -> str:
    """`content_of` a problem as its dataset has it."""
    return content_of(problem.question, problem.answer, problem.images)


def read_decisions(output_dir: Path) -> Decisions:
    """The decisions in `output_dir`; none where there is no file.

    A damaged row is not used, with a warning that names it. Raises `StorageError` where the file
    cannot be read.
    """
    path = output_dir / DISPUTES_FILE
    found = JsonLines(path, _ROWS).read()
    for number in found.damaged:
        logger.warning(
            "Row %d of %s is damaged, and that decision is not used: put the file back from a "
            "copy, or decide again.",
            *(number, path),
        )
    if found.gaps:
        logger.warning("In %s %s.", path, found.gaps_in_words())
    return Decisions.of(line.row for line in found.sound)


def record(
    output_dir: Path,
    problem_id: str,
    content: str,
    decision: Kind,
    *,
    gold: str,
    answer: str = "",
    who: str = "",
    why: str = "",
) -> Decision:
    """Add a decision to those in `output_dir`, on the disk when this returns.

    Args:
        content: the digest of `content_of`; a dispute has it.
        gold: the gold answer that is decided about.
        answer: the right answer, with "other" alone.
        who: by default the user of this machine.

    Raises:
        DataError: "other" without an answer, with one that the grader cannot read or that is the
            gold answer; an answer with another decision; a withdrawal of what was not decided.
        StorageError: the file cannot be written.
    """
    answer = answer.strip()
    _require_sound(problem_id, decision, answer, gold)
    file = JsonLines(output_dir / DISPUTES_FILE, _ROWS)
    made = Decision(
        problem_id=problem_id,
        content=content,
        decision=decision,
        answer=answer,
        gold=gold,
        who=who.strip() or _user(),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        why=why.strip(),
    )
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        # Pages and commands may decide at the same time.
        with FileLock(output_dir / f".{DISPUTES_FILE}.lock"):
            there = file.read().sound
            before = Decisions.of(line.row for line in there)
            if decision == "withdrawn" and before.about(problem_id, content) is None:
                raise DataError(
                    f"Nothing is decided about problem {problem_id!r} as it is now, so there is "
                    "nothing to withdraw."
                )
            file.write([*there, file.line(made)])
    except OSError as error:
        raise StorageError(
            f"could not write {file.path}: {error.strerror or error}. "
            "Free some space or choose another folder with --output-dir; nothing was lost."
        ) from error
    return made


def _require_sound(problem_id: str, decision: Kind, answer: str, gold: str) -> None:
    if decision != "other":
        if answer:
            raise DataError(
                f"An answer ({answer!r}) goes with the decision other alone, and this one about "
                f"problem {problem_id!r} is {decision}."
            )
        return
    if not answer:
        raise DataError(
            f"The decision other about problem {problem_id!r} needs the answer that is right."
        )
    if fault := fault_of_gold(answer):
        raise DataError(
            f"{answer!r} cannot be the answer to problem {problem_id!r}: {fault}; write it as an "
            "answer would be written, such as 12.5 or \\frac{3}{4}."
        )
    if is_equivalent(answer, gold):
        raise DataError(
            f"{answer!r} is the gold answer of problem {problem_id!r} ({gold!r}): say gold."
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"
