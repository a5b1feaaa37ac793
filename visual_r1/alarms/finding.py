"""What an alarm has to say: one finding, in sentences."""

from dataclasses import asdict, dataclass
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
