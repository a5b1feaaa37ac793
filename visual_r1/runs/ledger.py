"""The ledger: what has been saved, and what to resume from.

`ledger.jsonl` has one row a checkpoint, written after the checkpoint is on the server and after
the metrics and rollouts of its steps are on the disk. So a row is a promise: all steps before
`row.step` are done, and their weights can be loaded. For example:

{"step": 40, "state_path": "tinker://…:train:0/weights/step-000040", "sampler_path": "tinker://…",
 "expires_at": "2026-05-08T10:00:00+00:00", "config_digest": "1f0c…", "dataset_digest": "9a41…",
 "backend": "embedded", "created_at": "2026-05-01T10:00:00+00:00", "updates": 37, "carry": {},
 "digests": {"rollouts/chunk-00003.parquet": "6c0e…"}, "lines": {"validation.jsonl": 3},
 "chain": "…"}

Nothing is ever deleted from it: a row that no longer counts (damaged, gone from the server, later
than the step a user went back to) moves to `ledger.set-aside.jsonl`, by the rule of `jsonl`. Each
row builds on those before it, though: a damaged one is left out only where it is the last. Where
an earlier one is damaged or missing, a user says which checkpoint to go on from.
"""

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeInt, TypeAdapter

from visual_r1.errors import RunError
from visual_r1.jsonl import LATER, JsonLines, Line, Reading
from visual_r1.opening import open_file
from visual_r1.printing import open_logger

logger = open_logger(__name__)


def _with_time_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("nobody can say when that is")
    return text


Time = Annotated[str, AfterValidator(_with_time_zone)]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One checkpoint. `step` is the next step to run; times are ISO 8601 in UTC.

    `expires_at` is None for a checkpoint that no time ends. `updates` counts the optimizer steps
    since the start of the run: 0 means that these are the weights of step 0. `carry` is whatever
    state the order of the data needs besides (seed, step). `periodic` marks one without an end that
    `backend.keep_checkpoints` may delete all the same. `digests` are those of files that the
    run reads again, by their places in its folder: the newest row that names a file counts. That of
    metrics.jsonl, which goes on, is of the row of the last step. `lines` says how many rows other
    JSONL files had. Rows of an older version have neither. `started_from` is the training state
    that the run began with, None where that was a new adapter.
    """

    step: NonNegativeInt
    state_path: str
    sampler_path: str
    expires_at: Time | None
    config_digest: str
    dataset_digest: str
    backend: str
    created_at: Time
    updates: NonNegativeInt
    carry: Mapping[str, Any] = field(default_factory=dict[str, Any])
    periodic: bool = False
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    lines: Mapping[str, NonNegativeInt] = field(default_factory=dict[str, int])
    started_from: str | None = field(default=None, metadata=LATER)

    @property
    def may_be_pruned(self) -> bool:
        """Whether it is neither the last of a run nor one that was exported."""
        return self.expires_at is not None or self.periodic


_ROWS = TypeAdapter(LedgerRow)


def _made(line: bytes) -> str:
    return json.loads(line)["created_at"]


class Ledger:
    """The ledger of the run in `run_dir`; only one process may use it (see `runs.folder`)."""

    def __init__(self, run_dir: Path) -> None:
        self._file = JsonLines(run_dir / "ledger.jsonl", _ROWS, kept=True)
        self.path = self._file.path
        self.set_aside_path = self._file.set_aside_path

    def rows(self) -> list[LedgerRow]:
        """All rows, oldest first.

        A damaged last row is set aside with a warning, and the row before it counts; one that
        stands there twice counts once. Raises `RunError` when an earlier row is damaged, missing or
        moved: then nobody can say what the later ones build on.
        """
        return [line.row for line in self._lines()]

    def read(self) -> Reading[LedgerRow]:
        """All that stands in the file, damaged or not; changes nothing."""
        return self._file.read()

    def digests(self) -> dict[str, str]:
        """What the file at each place in the run's folder was when a row last named it."""
        rows = (line.row for line in self._file.read().sound)
        return {place: found for row in rows for place, found in row.digests.items()}

    def times(self) -> list[datetime]:
        """When its checkpoints were made, also those that were set aside; changes nothing."""
        found: list[datetime] = []
        for path in (self.path, self.set_aside_path):
            try:
                with open_file(path) as file:
                    lines = file.readlines()
            except OSError:
                continue
            for line in lines:
                with suppress(ValueError, KeyError, TypeError):
                    found.append(datetime.fromisoformat(_with_time_zone(_made(line))))
        return found

    def append(self, row: LedgerRow) -> None:
        """Add a row, whole and flushed to the disk; raises `StorageError` when it cannot be."""
        lines = self._lines()
        if lines and row.step <= (newest := lines[-1].row.step):
            raise RunError(
                f"{self.path} already holds step {newest}, so step {row.step} cannot follow; is "
                "another process writing to this run?"
            )
        self._file.append(row, flushed=True)

    def at_step(self, step: int) -> LedgerRow | None:
        """The row of `step`, or None."""
        return next((row for row in self.rows() if row.step == step), None)

    def row_to_go_back_to(self, step: int) -> LedgerRow | None:
        """The row of `step`; None for 0, the very beginning.

        What else is wrong with the ledger does not matter: the user has said where to go on.
        Raises `RunError`, with the steps there are, when there is no such row.
        """
        there = self._by_step()
        if step not in there and step != 0:
            steps = ", ".join(map(str, there)) or "none yet"
            raise RunError(
                f"There is no checkpoint of step {step} in {self.path}; "
                f"--train.resume_from_step can be 0 (start over) or one of: {steps}."
            )
        return there[step].row if step in there else None

    def go_back_to(self, step: int) -> LedgerRow | None:
        """Make the row of `step` the last one and return it; what else is there is set aside but
        for the rows before it."""
        row = self.row_to_go_back_to(step)
        self._file.write(line for known, line in self._by_step().items() if known <= step)
        return row

    def ends_at(self, step: int) -> bool:
        """Whether there is nothing in the file to set aside when going back to `step`."""
        found = self._file.read()
        return not self._fault(found) and all(line.row.step <= step for line in found.sound)

    def newest_loadable(self, exists: Callable[[str], bool]) -> LedgerRow | None:
        """The newest row whose state the server still has; None when there are no rows at all.

        `exists` asks the server for a `tinker://` path. A row whose state has gone is reported with
        a warning. Raises `RunError` when all have gone: starting anew would silently throw the
        training away, so that is for the user to say. The ledger stays as it is.
        """
        rows = self.rows()
        for count in range(len(rows), 0, -1):
            row = rows[count - 1]
            if exists(row.state_path):
                return row
            logger.warning(
                "The checkpoint of step %d (%s%s) has gone from the server; trying the one before.",
                row.step,
                row.state_path,
                f", due to expire at {row.expires_at}" if row.expires_at else "",
            )
        if not rows:
            return None
        steps = ", ".join(str(row.step) for row in rows)
        raise RunError(
            f"None of the checkpoints in {self.path} (steps {steps}) is on the server any more: "
            "start over with --train.resume_from_step 0, which keeps the old rows aside, or under "
            "another --run.name."
        )

    def renew(self, step: int, expires_at: str | None, *, periodic: bool = False) -> None:
        """Note that the checkpoint of `step` lives longer now; None is for ever.

        With `periodic`, until `backend.keep_checkpoints` deletes it.
        """
        for line in self._lines():
            if line.row.step == step:
                changed = replace(line.row, expires_at=expires_at, periodic=periodic)
                if changed != line.row:
                    self._file.replace(line, changed)

    def sign(self, config_digest: str) -> None:
        """Let all rows be of the configuration with this digest: it is theirs by another rule.

        Raises `RunError` as `rows` does.
        """
        lines = self._lines()
        signed = [self._file.line(replace(one.row, config_digest=config_digest)) for one in lines]
        self._file.write(signed, forget=lines)

    def drop(self, steps: Collection[int]) -> None:
        """Set the rows of `steps` aside: their checkpoints were deleted, or have gone."""
        self._file.write(line for line in self._lines() if line.row.step not in steps)

    def require_same_origin(self, *, dataset_digest: str, backend: str) -> None:
        """Raise `RunError` when the newest row was made on another server or dataset.

        (That the configuration is the same is for the run folder to say, by the names of keys.)
        """
        rows = self._file.rows()
        if not rows:
            return
        differences = (
            ("backend", rows[-1].backend, backend),
            ("dataset", rows[-1].dataset_digest, dataset_digest),
        )
        for what, then, now in differences:
            if then != now:
                raise RunError(
                    f"The checkpoints in {self.path} were made with the {what} {then}, and this "
                    f"is {now}: go back to that {what}, or choose another --run.name."
                )

    def _lines(self) -> list[Line[LedgerRow]]:
        found = self._file.read()
        lines = found.sound
        if fault := self._fault(found):
            steps = ", ".join(map(str, (0, *self._by_step())))
            raise RunError(
                f"{fault}: put the file back from a copy, say from which checkpoint "
                f"to go on with --train.resume_from_step ({steps}; what is wrong is then set "
                "aside), or start anew with another --run.name."
            )
        if not found.damaged and not found.doubled:
            return lines
        self._file.set_aside(found.damaged.values())
        self._file.write(lines)
        if found.damaged:
            logger.warning(
                "The last row of %s is damaged and was moved to %s; the run goes on from %s.",
                self.path,
                self.set_aside_path.name,
                f"step {lines[-1].row.step}" if lines else "the beginning",
            )
        return lines

    def _fault(self, found: Reading[LedgerRow]) -> str:
        """What is wrong with the file and cannot be left out without a word of the user's."""
        count = len(found.sound) + len(found.damaged) + len(found.doubled)
        number = min(found.damaged, default=count)
        if number < count:
            return f"Row {number} of {self.path} is damaged, and is not the last"
        if found.gaps:
            return f"In {self.path} {found.gaps_in_words()}"
        steps = [line.row.step for line in found.sound]
        back = next((b for a, b in pairwise(steps) if b <= a), None)
        return "" if back is None else f"In {self.path} step {back} stands behind a later one"

    def _by_step(self) -> dict[int, Line[LedgerRow]]:
        """The rows that are as they were written, in the order of their steps."""
        lines = {line.row.step: line for line in self._file.read().sound}
        return {step: lines[step] for step in sorted(lines)}
