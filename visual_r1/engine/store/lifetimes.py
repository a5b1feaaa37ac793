"""How long checkpoints live, and what a clock that jumps does to that: nothing.

While an engine runs, its time is the wall clock at its start and what has passed since, by a clock
that cannot be set. Between two engines nobody can tell a clock that jumped from days that went by.
So what is over when an engine starts is spared once, for a day, in which whoever still needs it
renews it; only after that, or when its end comes while an engine runs, is it removed.

An engine that a run starts for itself gives a checkpoint an end only where its user asked for one.
Before records had digests, every one was given an end that nobody had asked for: there it counts
no longer.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from visual_r1.engine.store.records import CheckpointRecord
from visual_r1.engine.types import InvalidRequest

SPARED_FOR = timedelta(days=1)

_TTL_MAX = 10 * 366 * 24 * 3600

# Where there is one, a clock that also goes on while the machine sleeps.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_utc() -> datetime:
    """The time by the machine's clock, which may jump."""
    return datetime.now(UTC)


class SteadyClock:
    """The time as it was when this was made, and what has passed since."""

    def __init__(self) -> None:
        self._began = now_utc()
        self._began_s = time.clock_gettime(_STEADY)

    def __call__(self) -> datetime:
        """Now, in UTC."""
        return self._began + timedelta(seconds=time.clock_gettime(_STEADY) - self._began_s)


def expiry(now: datetime, ttl_seconds: int | None) -> datetime | None:
    """When a checkpoint of that time to live ends. Raises `InvalidRequest` out of range."""
    if ttl_seconds is None:
        return None
    if not 1 <= ttl_seconds <= _TTL_MAX:
        raise InvalidRequest(
            f"ttl_seconds is {ttl_seconds}; it lies between 1 and {_TTL_MAX} (ten years), "
            "or is null for no end."
        )
    return now + timedelta(seconds=ttl_seconds)


def at_start(record: CheckpointRecord, now: datetime, *, of_run: bool) -> CheckpointRecord:
    """A checkpoint as an engine that starts takes it over, by the rules above."""
    if record.expires_at is None:
        return record
    # The copy that an export downloads was always meant to go.
    if of_run and not record.has_digests and record.path.kind != "external_weights":
        return replace(record, expires_at=None)
    if record.expired(now) and not record.spared:
        return replace(record, expires_at=now + SPARED_FOR, spared=True)
    return record
