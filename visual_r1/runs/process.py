"""Which process has a run's folder, how the last one ended where no other file could say it, and
what it has yet to tell.

`.owner` names the process, `.lock` is held by it. `.ending.json` is there after a start that ended
by an error, or because a person stopped it, by a signal or a tracker's button:

    {"kind": "failed", "sentence": "…", "at": "2026-05-01T10:00:00+00:00"}

A process that was killed writes nothing, and one that came to its end has left the summary.

`.untold.json` is there from before the alarms write down what they found at a checkpoint until
somebody was told of it: of a pause with the end of the flow, of a warning with its artifact.

    {"checkpoint": 40}
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
from visual_r1.printing import open_logger
from visual_r1.storage import read_if_sound, read_json, write_json

logger = open_logger(__name__)

OWNER, LOCK = ".owner", ".lock"
ENDING = ".ending.json"
UNTOLD = ".untold.json"


@dataclass(frozen=True, slots=True)
class Ending:
    """`sentence` is that of the error, empty where a person stopped it; `at` is ISO 8601, UTC."""

    kind: Literal["failed", "stopped"]
    sentence: str
    at: str


_STORED = TypeAdapter(Ending)


@dataclass(frozen=True, slots=True)
class _Untold:
    """What the alarms found at the checkpoint of this step was not told yet."""

    checkpoint: int


_UNTOLD = TypeAdapter(_Untold)

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


def note_untold(run_dir: Path, checkpoint: int) -> None:
    """What the alarms find at `checkpoint` is to be told; raises `StorageError` where the disk
    refuses that.

    To be called before it is written down: a kill between the two leaves nothing to tell, where
    the other order would leave it never told.
    """
    write_json(run_dir / UNTOLD, asdict(_Untold(checkpoint)))


def is_untold(run_dir: Path, checkpoint: int) -> bool:
    """Whether what the alarms found at `checkpoint` has yet to be told.

    A file that is damaged is taken for one of this checkpoint: what is told twice costs a start,
    and a pause that nobody is told of costs the training that it was to save.
    """
    try:
        return read_json(run_dir / UNTOLD, _UNTOLD).checkpoint == checkpoint
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        logger.warning(
            "%s is damaged (%s): what the alarms found at the newest checkpoint is told again.",
            *(run_dir / UNTOLD, error),
        )
        return True


def note_told(run_dir: Path, checkpoint: int) -> None:
    """What the alarms found at `checkpoint` was told.

    Where the disk refuses to forget it, it is told again.
    """
    # Another process may have gone on meanwhile, and have something to tell of its own.
    if is_untold(run_dir, checkpoint):
        with suppress(OSError):
            (run_dir / UNTOLD).unlink(missing_ok=True)
