"""The ledger: what has been saved, and what to resume from.

`ledger.jsonl` has one row a checkpoint, written after the checkpoint is on the server and after
the metrics and rollouts of its steps are on the disk. So a row is a promise: all steps before
`row.step` are done, and their weights can be loaded. For example:

{"step": 40, "state_path": "tinker://…:train:0/weights/step-000040", "sampler_path": "tinker://…",
 "expires_at": "2026-05-08T10:00:00+00:00", "config_digest": "1f0c…", "dataset_digest": "9a41…",
 "backend": "embedded", "created_at": "2026-05-01T10:00:00+00:00", "updates": 37, "carry": {}}

Nothing is ever deleted from it: a row that no longer counts (damaged, gone from the server, later
than the step a user went back to) moves to `ledger.set-aside.jsonl`, by the rule of `jsonl`. Each
row builds on those before it, though: a damaged one is left out only where it is the last.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeInt, TypeAdapter

from visual_r1.errors import RunError
from visual_r1.printing import open_logger
from visual_r1.runs.jsonl import JsonLines, Line

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
    `backend.keep_checkpoints` may delete all the same.
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

    @property
    def may_be_pruned(self) -> bool:
        """Whether it is neither the last of a run nor one that was exported."""
        return self.expires_at is not None or self.periodic


_ROWS = TypeAdapter(LedgerRow)


class Ledger:
    """The ledger of the run in `run_dir`; only one process may use it (see `runs.folder`)."""

    def __init__(self, run_dir: Path) -> None:
        self._file = JsonLines(run_dir / "ledger.jsonl", _ROWS)
        self.path = self._file.path
        self.set_aside_path = self._file.set_aside_path

    def rows(self) -> list[LedgerRow]:
        """All rows, oldest first.

        A damaged last row is set aside with a warning, and the row before it counts. Raises
        `RunError` when an earlier row is damaged: then nobody can say what the later ones build on.
        """
        return [line.row for line in self._lines()]

    def append(self, row: LedgerRow) -> None:
        """Add a row, whole and flushed to the disk; raises `StorageError` when it cannot be."""
        lines = self._lines()
        if lines and row.step <= (newest := lines[-1].row.step):
            raise RunError(
                f"{self.path} already holds step {newest}, so step {row.step} cannot follow; is "
                "another process writing to this run?"
            )
        self._file.write([*lines, self._file.line(row)])

    def at_step(self, step: int) -> LedgerRow | None:
        """The row of `step`, or None."""
        return next((row for row in self.rows() if row.step == step), None)

    def row_to_go_back_to(self, step: int) -> LedgerRow | None:
        """The row of `step`; None for 0, the very beginning.

        Raises `RunError`, with the steps there are, when there is no such row.
        """
        row = self.at_step(step)
        if row is None and step != 0:
            there = ", ".join(str(known.step) for known in self.rows()) or "none yet"
            raise RunError(
                f"There is no checkpoint of step {step} in {self.path}; "
                f"--train.resume_from_step can be 0 (start over) or one of: {there}."
            )
        return row

    def go_back_to(self, step: int) -> LedgerRow | None:
        """Make the row of `step` the last one and return it; later rows are set aside."""
        row = self.row_to_go_back_to(step)
        self._file.keep(lambda known: known.step <= step)
        return row

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

    def drop(self, steps: Collection[int]) -> None:
        """Set the rows of `steps` aside: their checkpoints were deleted, or have gone."""
        self._file.write(line for line in self._lines() if line.row.step not in steps)

    def require_same_origin(self, *, dataset_digest: str, backend: str) -> None:
        """Raise `RunError` when the newest row was made on another server or dataset.

        (That the configuration is the same is for the run folder to say, by the names of keys.)
        """
        rows = self.rows()
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
        lines, damaged = self._file.read()
        if not damaged:
            return lines
        number, text = min(damaged.items())
        if number < len(lines) + len(damaged):
            raise RunError(
                f"Row {number} of {self.path} is damaged, and is not the last: repair or remove "
                "that line, or start anew with another --run.name."
            )
        self._file.set_aside([text])
        self._file.write(lines)
        logger.warning(
            "The last row of %s is damaged and was moved to %s; the run goes on from %s.",
            self.path,
            self.set_aside_path.name,
            f"step {lines[-1].row.step}" if lines else "the beginning",
        )
        return lines
