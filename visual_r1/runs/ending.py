"""How the last start of a run ended, where no other file could say it: `.ending.json`.

    {"kind": "failed", "sentence": "…", "at": "2026-05-01T10:00:00+00:00"}

That a start ended by an error, or because a person stopped it. A process that was killed writes
nothing, and one that came to its end has left the summary.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from visual_r1.errors import StorageError, VisualR1Error
from visual_r1.storage import read_if_sound, write_json

ENDING = ".ending.json"


@dataclass(frozen=True, slots=True)
class Ending:
    """`sentence` is that of the error, empty where a person stopped it; `at` is ISO 8601, UTC."""

    kind: Literal["failed", "stopped"]
    sentence: str
    at: str


_STORED = TypeAdapter(Ending)


def note_ending(run_dir: Path, error: BaseException) -> None:
    """Keep that a start of the run ended by `error`.

    Where the folder has gone, or the disk refuses it, the run is later taken for killed.
    """
    said = ""
    if isinstance(error, Exception):
        known = isinstance(error, VisualR1Error)
        said = str(error) if known else f"{type(error).__name__}: {error}"
    kind = "failed" if isinstance(error, Exception) else "stopped"
    with suppress(StorageError):
        if run_dir.is_dir():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(run_dir / ENDING, asdict(Ending(kind, said, now)))


def forget_ending(run_dir: Path) -> None:
    """A new start is at work on the run: how the last one ended counts no more."""
    with suppress(OSError):
        (run_dir / ENDING).unlink(missing_ok=True)


def read_ending(run_dir: Path) -> Ending | None:
    """What `note_ending` kept; None where nothing was, or it is damaged."""
    return read_if_sound(run_dir / ENDING, _STORED, "how its last start ended is not shown")
