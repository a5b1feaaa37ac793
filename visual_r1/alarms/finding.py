"""What an alarm has to say: one finding, in sentences.

alarms.jsonl in the run's folder: each finding once, in the order of the checkpoints.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from visual_r1.storage import write_text

AlarmName = Literal["format", "length", "scans", "blind_gap", "entropy", "validation", "mismatch"]
ALARMS: tuple[AlarmName, ...] = get_args(AlarmName)


@dataclass(frozen=True, slots=True)
class Finding:
    """A sign of trouble. `seen` holds the figures, `means` the usual reason, `advice` what to do.

    `step` is the step whose row, or the checkpoint whose validation, tripped the alarm;
    `checkpoint` the number of steps that were done when it was looked for, from which the alarm's
    memory begins anew. `action` is what it came to: `warn`, or `pause`.
    """

    alarm: AlarmName
    step: int
    checkpoint: int
    action: Literal["warn", "pause"]
    seen: str
    means: str
    advice: str

    @property
    def sentence(self) -> str:
        """All of it, as it is shown."""
        return f"Alarm {self.alarm}: {self.seen} {self.means} {self.advice}"

    def row(self) -> dict[str, Any]:
        """The finding as a row of alarms.jsonl."""
        return asdict(self)

    @staticmethod
    def of_row(row: Mapping[str, Any]) -> "Finding | None":
        """The finding of a row; None where the row is none."""
        names = {field.name for field in fields(Finding)}
        if not names <= row.keys() or row["alarm"] not in ALARMS:
            return None
        numbers = (row["step"], row["checkpoint"])
        if not all(isinstance(number, int) for number in numbers):
            return None
        return Finding(**{name: row[name] for name in names})


class AlarmLog:
    """The findings of the run in `run_dir`; only one process may write them."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "alarms.jsonl"

    def findings(self) -> list[Finding]:
        """All there are; a damaged line is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [finding for finding in map(_parsed, lines) if finding is not None]

    def add(self, new: list[Finding]) -> None:
        """Add findings, flushed to the disk; raises `StorageError` where they cannot be written."""
        if new:
            self._write([*self.findings(), *new])

    def go_back_to(self, step: int) -> None:
        """Forget what was found after `step`: the run goes on from that checkpoint."""
        found = self.findings()
        kept = [finding for finding in found if finding.checkpoint <= step]
        if len(kept) < len(found):
            self._write(kept)

    def _write(self, findings: list[Finding]) -> None:
        lines = [json.dumps(finding.row(), ensure_ascii=False) for finding in findings]
        write_text(self.path, "".join(line + "\n" for line in lines))


def _parsed(line: str) -> Finding | None:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError:
        return None
    return Finding.of_row(cast("dict[str, Any]", row)) if isinstance(row, dict) else None
