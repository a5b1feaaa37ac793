"""What an examination says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "note", "warning", "error"]
EXIT_CODES: dict[Severity, int] = {"ok": 0, "note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what it is, and what to do where it is not well.

    An error means that the run will fail or learn nothing; a warning, that it probably wastes time
    or money; a note is worth knowing.
    """

    severity: Severity
    subject: str
    says: str
    advice: str = ""


def exit_code(findings: Sequence[Finding]) -> int:
    """0 where all is well, 1 with a warning, 2 with an error."""
    return max((EXIT_CODES[finding.severity] for finding in findings), default=0)
