"""What an alarm has to say: one finding, in sentences."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

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
