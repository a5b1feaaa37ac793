"""When Python's garbage collector looks at what: it stands still for that, with every thread.

What a program imports and loads stays. The collector goes through all of it again and again while
it is imported, and later once in a while: a quarter of a second each time in a run's process, a
fifth in the engine's (Python 3.11).

It looks at what is new after each 700 objects that were made and not freed, thousands of times a
step where thousands of samples come, though cycles are rare in what a run makes. Of those that
there are a few hold much: the SDK's futures have each answer in one. Objects are counted and not
bytes, so that memory is looked at here.
"""

import gc
import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MADE_BETWEEN = 20_000
"""Objects that are made and not freed from one look at the newest to the next."""

GROWN = 128 * 2**20
"""Bytes by which a process grows until all that is new is looked at."""

_held: dict[int, int] = {}
"""By a process's number the bytes that it held after its last look at all. It shrinks and grows
again with each step, which is no garbage, so the most that it held without any is what counts."""


_put_off: list[bool] = []
"""Not empty from `collect_nothing` on, until it ends."""


def collect_nothing() -> None:
    """Until `collect_what_is_new` look for no garbage: what is imported now is none.

    For programs of ours: in one whose user has switched the collector off it does nothing.
    """
    if gc.isenabled():
        gc.disable()
        _put_off.append(True)


def collect_what_is_new(*, seldom: bool = False) -> None:
    """From here on look for garbage again, but never at what is there now; where `seldom`, with
    `MADE_BETWEEN` new objects from one look to the next.

    What is there now and becomes garbage in cycles later stays, so this does nothing but once
    after `collect_nothing`, where a program has imported and loaded what it needs.
    """
    if _put_off:
        gc.freeze()
        if seldom:
            gc.set_threshold(MADE_BETWEEN)
        collect_as_ever()


def collect_as_ever() -> None:
    """What `collect_nothing` was for has ended, or failed."""
    if _put_off:
        _put_off.clear()
        gc.enable()


def collect_if_grown() -> None:
    """Look for garbage in all that is new, where the process holds `GROWN` more than after the
    last time; some 10 µs where it does not."""
    process = _process(os.getpid())
    holds = process.memory_info().rss
    if holds - _held.setdefault(process.pid, holds) > GROWN:
        gc.collect()
        _held[process.pid] = process.memory_info().rss


@cache
def _process(pid: int) -> "psutil.Process":
    import psutil  # here, since who reads flags alone has no need of it

    return psutil.Process(pid)
