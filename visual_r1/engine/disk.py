"""How much of the disk the engine may use, and a report of what it does use."""

import re
from dataclasses import dataclass
from datetime import datetime

from visual_r1.engine.home import HomeFolder
from visual_r1.engine.records import CheckpointRecord
from visual_r1.errors import ConfigError, StorageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_NAMED = 3
"""Checkpoints that a refusal names."""


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
    lines = [f"{'run':{width}}  checkpoints      bytes  permanent  next to expire"]
    lines += [
        f"{use.model_id:{width}}  {use.checkpoints:11d}  {size_text(use.size_bytes):>9}  "
        f"{size_text(use.permanent_bytes):>9}  "
        f"{'never' if use.next_expiry is None else use.next_expiry.isoformat(' ', 'minutes')}"
        for use in uses
    ]
    total = size_text(home.used_bytes())
    return "\n".join([*lines, f"{home.path} holds {total} in {len(records)} checkpoints."])
