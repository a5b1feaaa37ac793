"""How much of the disk the engine may use, and a report of what it does use."""

import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.filesize import decimal as size_text

from visual_r1.engine.store.home import HomeFolder
from visual_r1.engine.store.records import CheckpointRecord, SessionRecord, session_of
from visual_r1.errors import ConfigError, StorageError

MAX_DISK_VARIABLE = "VISUAL_R1_ENGINE_MAX_DISK"
RUN_KEY = "run"
"""In the metadata of a session: the name of the run that it trains for."""

_NAMED = 3
"""Checkpoints, or runs, that a refusal names."""
_SIZE = re.compile(r"[0-9]+(\.[0-9]+)?\s*([kmgtpe]?(ib?|b)?)", re.IGNORECASE)
_BYTES = TypeAdapter(ByteSize)


def parse_size(text: str) -> int:
    """Bytes of "20GB", "1.5 TiB", "500M" or a plain number. Raises `ConfigError`."""
    written = text.strip()
    if written.endswith(("i", "I")):
        written += "B"  # 2 Gi
    try:
        # pydantic stops reading where it understands no more: "1,5GB" would be one byte.
        size = _BYTES.validate_python(written if _SIZE.fullmatch(written) else "")
    except ValidationError as error:
        raise ConfigError(
            f"{text!r} is not a size: write 20GB, 500MB, 1.5TiB or a count of bytes."
        ) from error
    if size < 1:
        raise ConfigError(f"{text!r} leaves no room at all; leave the limit out for no limit.")
    return size


def full(budget: int, used: int, needed: int, checkpoints: list[CheckpointRecord]) -> StorageError:
    """What a save is refused with: how much is missing, and what would make room."""
    oldest = sorted(checkpoints, key=lambda record: record.created_at)[:_NAMED]
    proposals = "; ".join(
        f"`tinker checkpoint delete {record.path}` frees {size_text(record.size_bytes)}"
        for record in oldest
    )
    return StorageError(
        f"the engine may use {size_text(budget)} of the disk (--max-disk), {size_text(used)} are "
        f"in use, and this needs {size_text(needed)}: give it more, or delete what you need no "
        f"longer{f' (the oldest: {proposals})' if proposals else ''}; nothing was written."
    )


def run_names(sessions: Sequence[SessionRecord]) -> dict[str, str]:
    """The run that a session trained for, by the session's id; some have none."""
    return {
        one.session_id: one.user_metadata[RUN_KEY]
        for one in sessions
        if RUN_KEY in one.user_metadata
    }


def full_for_run(
    budget: int,
    used: int,
    needed: int,
    home: Path,
    checkpoints: Sequence[CheckpointRecord],
    sessions: Sequence[SessionRecord],
) -> StorageError:
    """What a save is refused with where the engine is a run's own, and ends with it.

    `sessions` are the newest first; the newest is the run's. What it saved itself is never among
    what is proposed to be deleted, nor is what nobody put a name to: a run may start from there.
    """
    names = run_names(sessions)
    own = names.get(sessions[0].session_id) if sessions else None
    sizes: dict[str, int] = {}
    states = 0
    for record in checkpoints:
        name = names.get(session_of(record.path.model_id))
        if name is not None and name != own:
            sizes[name] = sizes.get(name, 0) + record.size_bytes
        states += name == own and record.path.kind == "weights"
    others = sorted(sizes, key=lambda name: (-sizes[name], name))
    proposals = "; ".join(
        f"`visual-r1 engine --home {shlex.quote(str(home))} --delete-run {shlex.quote(name)}` "
        f"frees {size_text(sizes[name])}"
        for name in others[:_NAMED]
    )
    other = (
        f"delete the checkpoints of another run that you need no longer ({proposals})"
        if others
        else "choose another folder with --backend.engine_home for the next run (no other run is "
        "known to have checkpoints in this one)"
    )
    help_yet = "" if states > 2 else ", which is no help before it has more"
    return StorageError(
        f"{MAX_DISK_VARIABLE} lets {home} take {size_text(budget)}, {size_text(used)} are in use, "
        f"and this needs {size_text(needed)}; nothing was written. Set {MAX_DISK_VARIABLE} to more "
        f"than {size_text(used + needed)}, or let the run keep its two newest checkpoints alone "
        f"with --backend.keep_checkpoints 2{help_yet}, or {other}; the same command then goes on "
        "from the last checkpoint."
    )


def unwritten(place: Path, error: OSError, home_flag: str) -> StorageError:
    """What is said of a file that the disk refused; `home_flag` chooses another folder."""
    why = error.strerror or str(error)
    return StorageError(
        f"could not write {place}: {why}. Free some space on that disk, or choose another folder "
        f"for the engine with {home_flag}; nothing else was changed."
    )


def report(home: HomeFolder, now: datetime) -> str:
    """A table of the disk used by run, also while an engine serves the folder.

    The run with the most bytes comes first. What is permanent the engine never deletes.
    """
    by_run: dict[str, list[CheckpointRecord]] = {}
    for record in home.read_checkpoints():
        if not record.expired(now):
            by_run.setdefault(record.path.model_id, []).append(record)
    names = run_names([*home.read_sessions()])
    width = max(map(len, by_run), default=3)
    lines = [f"{'run':{width}}  checkpoints      bytes  permanent  next to expire          name"]
    sizes = {run: sum(one.size_bytes for one in records) for run, records in by_run.items()}
    for run in sorted(by_run, key=lambda run: (-sizes[run], run)):
        permanent = sum(one.size_bytes for one in by_run[run] if one.expires_at is None)
        ends = [one.expires_at for one in by_run[run] if one.expires_at is not None]
        lines.append(
            f"{run:{width}}  {len(by_run[run]):11d}  {size_text(sizes[run]):>9}  "
            f"{size_text(permanent):>9}  "
            f"{min(ends).isoformat(' ', 'minutes') if ends else 'never':22} "
            f"{names.get(session_of(run), '')}".rstrip()
        )
    total = size_text(home.used_bytes())
    count = sum(map(len, by_run.values()))
    return "\n".join([*lines, f"{home.path} holds {total} in {count} checkpoints."])
