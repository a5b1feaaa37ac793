"""Which process has a run's folder, and how the last one ended where no other file could say it.

`.owner` names the process, `.lock` is held by it. `.ending.json` is there after a start that ended
by an error, or because a person stopped it, by a signal or a tracker's button:

    {"kind": "failed", "sentence": "…", "at": "2026-05-01T10:00:00+00:00"}

A process that was killed writes nothing, and one that came to its end has left the summary.
"""

from asyncio import CancelledError
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from visual_r1.errors import RunStopped, StorageError, VisualR1Error
from visual_r1.opening import read_file
from visual_r1.storage import read_if_sound, write_json

OWNER, LOCK = ".owner", ".lock"
ENDING = ".ending.json"


@dataclass(frozen=True, slots=True)
class Ending:
    """`sentence` is that of the error, empty where a person stopped it; `at` is ISO 8601, UTC."""

    kind: Literal["failed", "stopped"]
    sentence: str
    at: str


_STORED = TypeAdapter(Ending)

_FAILURES = (Exception, CancelledError, SystemExit, GeneratorExit)
"""What no person asked for, but for `RunStopped`: all but Ctrl-C, and the signals that others make
exceptions of."""


def owner_in(path: Path) -> str:
    """The process that a file names as an owner, for a sentence."""
    try:
        return read_file(path, 100).decode("ascii").strip() or "unknown"
    except (OSError, ValueError):
        return "unknown"


def note_ending(run_dir: Path, error: BaseException) -> None:
    """Keep that a start of the run ended by `error`.

    Where the folder has gone, or the disk refuses it, the run is later taken for killed.
    """
    failed = isinstance(error, _FAILURES) and not isinstance(error, RunStopped)
    said = ""
    if failed:
        known = isinstance(error, VisualR1Error)
        said = str(error) if known else f"{type(error).__name__}: {error}"
    kind = "failed" if failed else "stopped"
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
