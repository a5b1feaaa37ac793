"""How many processor cores this process may keep busy: of a container, those that it was given."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """The cores that this process is allowed (its affinity), and no more than the quotas of its
    control groups, rounded up; 1 at least. `root` is where `proc` and `sys` are."""
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min([allowed, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The cores that the group of this process, and each around it, may use; none: no bound.

    Of version 2, `cpu.max` has the microseconds of computing in a period, and the period; of
    version 1 they are two files (kernel.org, admin-guide/cgroup-v2 and scheduler/sched-bwc).
    """
    groups = root / "sys/fs/cgroup"
    lines: list[str] = []
    with suppress(OSError):  # not a Linux
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        old = "cpu" in controllers.split(",")
        if controllers and not old:
            continue
        top = groups / controllers if old and (groups / controllers).is_dir() else groups
        top = groups / "cpu" if old and not (groups / controllers).is_dir() else top
        group = top / path.strip("/")
        while group.is_relative_to(top):
            with suppress(OSError, ValueError, ZeroDivisionError):  # "max": as many as there are
                if old:
                    quota, period = (
                        (group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
                    )
                else:
                    quota, period = (group / "cpu.max").read_text().split()
                if int(quota) > 0:
                    yield int(quota) / int(period)
            group = group.parent
