"""What an alarm has found, and alarms.jsonl in the run's folder, where each finding stands once.

The rows are in the order of the checkpoints:

    {"alarm": "format", "step": 45, "checkpoint": 50, "action": "warn",
     "seen": "format rose from …", "means": "Usually …", "advice": "Read some rollouts; …"}
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

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


_FINDING = TypeAdapter(Finding)


class AlarmLog:
    """The findings of the run in `run_dir`; only one process may write them."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "alarms.jsonl"

    def findings(self) -> list[Finding]:
        """All there are; a damaged line is left out."""
        if not self.path.exists():
            return []
        found: list[Finding] = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(_FINDING.validate_json(line, strict=True))
            except ValidationError:
                continue
        return found

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
