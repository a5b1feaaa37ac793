"""alarms.jsonl in the run's folder: each finding once, in the order of the checkpoints."""

import json
from pathlib import Path
from typing import Any, cast

from visual_r1.alarms.finding import Finding
from visual_r1.storage import write_text


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
