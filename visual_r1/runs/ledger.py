"""The ledger: what has been saved, and what to resume from.

`ledger.jsonl` has one row a checkpoint, written after the checkpoint is on the server and after
the metrics and rollouts of its steps are on the disk. So a row is a promise: all steps before
`row.step` are done, and their weights can be loaded. For example:

{"step": 40, "state_path": "tinker://…:train:0/weights/step-000040", "sampler_path": "tinker://…",
 "expires_at": "2026-05-08T10:00:00+00:00", "config_digest": "1f0c…", "dataset_digest": "9a41…",
 "backend": "embedded", "created_at": "2026-05-01T10:00:00+00:00", "updates": 37, "carry": {}}

Nothing is ever deleted from it: a row that no longer counts (damaged, gone from the server, later
than the step a user went back to) moves to `ledger.set-aside.jsonl`.
"""

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from visual_r1.errors import RunError
from visual_r1.storage import write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One checkpoint. `step` is the next step to run; times are ISO 8601 in UTC.

    `expires_at` is None for a checkpoint that stays for ever. `updates` counts the optimizer steps
    since the start of the run: 0 means that these are the weights of step 0. `carry` is whatever
    state the order of the data needs besides (seed, step).
    """

    step: int
    state_path: str
    sampler_path: str
    expires_at: str | None
    config_digest: str
    dataset_digest: str
    backend: str
    created_at: str
    updates: int
    carry: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Ledger:
    """The ledger of the run in `run_dir`; only one process may use it (see `run_folder`)."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "ledger.jsonl"
        self.set_aside_path = run_dir / "ledger.set-aside.jsonl"

    def rows(self) -> list[LedgerRow]:
        """All rows, oldest first.

        A damaged last row is set aside with a warning, and the row before it counts. Raises
        `RunError` when an earlier row is damaged: then nobody can say what the later ones build on.
        """
        lines = self._lines()
        rows: list[LedgerRow] = []
        for number, line in enumerate(lines, start=1):
            row = _parsed(line)
            if row is not None:
                rows.append(row)
            elif number == len(lines):
                self._set_aside(lines[-1:], lines[:-1])
                before = f"step {rows[-1].step}" if rows else "the beginning"
                logger.warning(
                    "The last row of %s is damaged and was moved to %s; the run goes on from %s.",
                    self.path,
                    self.set_aside_path.name,
                    before,
                )
            else:
                raise RunError(
                    f"Row {number} of {self.path} is damaged, and rows after it are not: repair or "
                    "remove that line, or start anew with another --run.name."
                )
        return rows

    def append(self, row: LedgerRow) -> None:
        """Add a row, whole and flushed to the disk; raises `StorageError` when it cannot be."""
        steps = [known.step for known in self.rows()]
        if steps and row.step <= steps[-1]:
            raise RunError(
                f"{self.path} already holds step {steps[-1]}, so step {row.step} cannot follow; is "
                "another process writing to this run?"
            )
        self._write([*self._lines(), json.dumps(asdict(row))])

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
        self._keep(sum(known.step <= step for known in self.rows()))
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

    def renew(self, step: int, expires_at: str | None) -> None:
        """Note that the checkpoint of `step` lives longer now; None is for ever."""
        rows = [
            replace(row, expires_at=expires_at) if row.step == step else row for row in self.rows()
        ]
        self._write([json.dumps(asdict(row)) for row in rows])

    def drop(self, steps: Collection[int]) -> None:
        """Set the rows of `steps` aside: their checkpoints were deleted, or have gone."""
        if steps:
            rows, lines = self.rows(), self._lines()
            pairs = list(zip(rows, lines, strict=True))
            self._set_aside(
                [line for row, line in pairs if row.step in steps],
                [line for row, line in pairs if row.step not in steps],
            )

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

    def _keep(self, count: int) -> None:
        lines = self._lines()
        if count < len(lines):
            self._set_aside(lines[count:], lines[:count])

    def _set_aside(self, lines: Sequence[str], kept: Sequence[str]) -> None:
        # The side file first: a kill between the two leaves a row in both, never in neither.
        before = _read_lines(self.set_aside_path)
        new = [line for line in lines if line not in before[-len(lines) :]]
        write_text(self.set_aside_path, "".join(line + "\n" for line in [*before, *new]))
        self._write(kept)

    def _write(self, lines: Sequence[str]) -> None:
        write_text(self.path, "".join(line + "\n" for line in lines))

    def _lines(self) -> list[str]:
        return [line for line in _read_lines(self.path) if line.strip()]


def _read_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _parsed(line: str) -> LedgerRow | None:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(values, dict):
        return None
    fields = cast("dict[str, Any]", values)
    whole = all(name in _HOLDS and _HOLDS[name](value) for name, value in fields.items())
    try:
        return LedgerRow(**fields) if whole else None
    except TypeError:  # a field is missing
        return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


_HOLDS: Mapping[str, Callable[[object], bool]] = {
    "step": _is_count,
    "state_path": _is_text,
    "sampler_path": _is_text,
    "expires_at": lambda value: value is None or _is_time(value),
    "config_digest": _is_text,
    "dataset_digest": _is_text,
    "backend": _is_text,
    "created_at": _is_time,
    "updates": _is_count,
    "carry": lambda value: isinstance(value, dict),
}
