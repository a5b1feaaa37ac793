"""The wall time of a run, over all the times it was started."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from visual_r1.printing import open_logger
from visual_r1.storage import read_json, write_json

logger = open_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Wall:
    seconds: float


_STORED = TypeAdapter(_Wall)


class Stopwatch:
    """Counts on from what the run's earlier invocations took.

    `lap` records the time so far in `wall.json`; of an invocation that was killed, what passed
    after its last lap is lost, and no more than that.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "wall.json"
        self._earlier = self._read()
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Wall seconds of this invocation and those before it."""
        return self._earlier + time.monotonic() - self._started

    def lap(self) -> float:
        """Record the time so far, and return it."""
        seconds = self.seconds()
        write_json(self._path, {"seconds": round(seconds, 3)})
        return seconds

    def _read(self) -> float:
        try:
            seconds = read_json(self._path, _STORED).seconds
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"{seconds} seconds")
            return seconds
        except FileNotFoundError:
            if not self._path.with_name("ledger.jsonl").exists():
                return 0.0  # nothing has been trained
            fault = "has gone"
        except (OSError, ValueError) as error:
            fault = f"is damaged ({error})"
        # A figure for the report, and no reason to stop a run.
        logger.warning("%s %s; the wall time is counted anew.", self._path, fault)
        return 0.0
