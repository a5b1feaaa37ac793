"""How much of the disk the engine may use, and a report of what it does use."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from visual_r1.engine.store.home import HomeFolder
from visual_r1.engine.store.records import CheckpointRecord, SessionRecord, session_of
from visual_r1.errors import ConfigError, StorageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_NAMED = 3
"""Checkpoints, or runs, that a refusal names."""

MAX_DISK_VARIABLE = "VISUAL_R1_ENGINE_MAX_DISK"
RUN_KEY = "run"
"""In the metadata of a session: the name of the run that it trains for."""


def parse_size(text: str) -> int:
    """Bytes of "20GB", "1.5 TiB", "500M" or a plain number. Raises `ConfigError`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a size: write 20GB, 500MB, 1.5TiB or a count of bytes.")
    number, prefix, binary = match.groups()
    base = 1024 if binary else 1000
    size = int(float(number) * base ** ("kmgt".find(prefix.lower()) + 1 if prefix else 0))
    if size < 1:
        raise ConfigError(f"{text!r} leaves no room at all; leave the limit out for no limit.")
    return size


def size_text(size_bytes: int) -> str:
    """A size for people: 1.5 GB."""
    value, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


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


def names_of(sessions: Sequence[SessionRecord]) -> dict[str, str]:
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
    names = names_of(sessions)
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


@dataclass(frozen=True)
class RunUse:
    """What one training run has on the disk."""

    model_id: str
    base_model: str
    checkpoints: int
    size_bytes: int
    permanent_bytes: int
    """Of checkpoints without an end: the engine never deletes them."""
    next_expiry: datetime | None

    @staticmethod
    def of(model_id: str, base_model: str, records: list[CheckpointRecord]) -> "RunUse":
        """Sum the checkpoints of one run."""
        ends = [record.expires_at for record in records if record.expires_at is not None]
        return RunUse(
            model_id=model_id,
            base_model=base_model,
            checkpoints=len(records),
            size_bytes=sum(record.size_bytes for record in records),
            permanent_bytes=sum(r.size_bytes for r in records if r.expires_at is None),
            next_expiry=min(ends, default=None),
        )


def use_by_run(records: list[CheckpointRecord]) -> list[RunUse]:
    """One entry a run that has checkpoints, the largest first."""
    by_run: dict[str, list[CheckpointRecord]] = {}
    for record in records:
        by_run.setdefault(record.path.model_id, []).append(record)
    uses = [RunUse.of(run, found[0].base_model, found) for run, found in by_run.items()]
    return sorted(uses, key=lambda use: (-use.size_bytes, use.model_id))


def report(home: HomeFolder, now: datetime) -> str:
    """A table of the disk used by run, also while an engine serves the folder."""
    records = [record for record in home.read_checkpoints() if not record.expired(now)]
    uses = use_by_run(records)
    width = max([len(use.model_id) for use in uses], default=3)
    names = names_of([*home.read_sessions()])
    lines = [f"{'run':{width}}  checkpoints      bytes  permanent  next to expire          name"]
    lines += [
        f"{use.model_id:{width}}  {use.checkpoints:11d}  {size_text(use.size_bytes):>9}  "
        f"{size_text(use.permanent_bytes):>9}  "
        f"{'never' if use.next_expiry is None else use.next_expiry.isoformat(' ', 'minutes'):22} "
        f"{names.get(session_of(use.model_id), '')}".rstrip()
        for use in uses
    ]
    total = size_text(home.used_bytes())
    return "\n".join([*lines, f"{home.path} holds {total} in {len(records)} checkpoints."])
