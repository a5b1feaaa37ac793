"""Whether a helper process is at work, for whoever waits for it.

One that ended is seen at once. One that neither answers nor computes stands still: it was stopped,
or waits for something that does not come. Slow is neither: what computes is waited for.
"""

import fcntl
import time
from pathlib import Path

import psutil

LEAST_CPU_S = 0.05
"""Less processor time than that is no work: an idle program uses as much now and then."""


class Progress:
    """Whether a process computes, from here on."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._cpu_s = self._used()
        self._began = self._at = time.monotonic()

    def seconds(self) -> float:
        """How long it has been looked at."""
        return time.monotonic() - self._began

    def seconds_without(self) -> float:
        """How long it has not been seen to compute."""
        used = self._used()
        if used - self._cpu_s >= LEAST_CPU_S:
            self._cpu_s, self._at = used, time.monotonic()
        return time.monotonic() - self._at

    def _used(self) -> float:
        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system


def children_named(name: str) -> list[psutil.Process]:
    """The child processes of this one that live and whose program has that name."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        try:
            if child.name() == name and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.Error:
            continue
    return found


def lives_since(pid: int, moment: float) -> bool:
    """Whether process `pid` lives and is the one of `moment` (seconds since the epoch).

    One that began later got the number of another that has ended.
    """
    try:
        process = psutil.Process(pid)
        # The kernel counts in hundredths, and from a boot whose time is known to a second.
        return process.create_time() <= moment + 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock file `path`, as `filelock` locks it.

    It is asked for and given back at once, shared: who looks at the same time is not in the way.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # none is there, or it cannot be read: nobody is known to hold it
        return False
    return False
