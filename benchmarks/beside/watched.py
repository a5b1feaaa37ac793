"""Whole runs, watched from outside: when each step's row is written, and what was used by then.

Nothing of a run is asked but that it writes a line of JSON a step into a file. Its start, the first
steps and its end are left out; what is measured lies between two rows.
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from beside.faults import BenchmarkError
from beside.rounds import Round

LOOK_S = 0.01
END_WITHIN_S = 120.0


@dataclass(frozen=True)
class Seen:
    """A row, and what was used up to it."""

    at: float
    cpu_seconds: float
    engine_busy: float
    """CPU seconds of the busiest thread of the engine: the one that computes, on a processor."""
    memory_bytes: int
    """Resident, of the whole tree but the engine."""
    row: Mapping[str, Any]


def watched_run(
    command: Sequence[str],
    environment: Mapping[str, str],
    rows: Path,
    steps: int,
    warm: int,
    log: Path,
    server: int | None = None,
) -> tuple[Round, list[Seen]]:
    """Run `command` until it ends; the `steps - warm` steps behind the first `warm` as one round.

    `server` is the process of an engine that the run uses and did not start. Raises
    `BenchmarkError` where the run fails or writes fewer rows.
    """
    load = os.getloadavg()[0]
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command), env=dict(environment), stdin=subprocess.DEVNULL, stdout=output,
            stderr=output,
        )  # fmt: skip
        seen: list[Seen] = []
        try:
            while process.poll() is None and len(seen) < steps:
                seen += _new_rows(process.pid, rows, len(seen), server)
                time.sleep(LOOK_S)
            process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            pass  # What was to be measured is there.
        finally:
            _end(process)
    if len(seen) < steps:
        said = log.read_text(errors="replace").strip().splitlines()
        raise BenchmarkError(
            f"{Path(command[1]).name} wrote {len(seen)} of {steps} steps "
            f"({said[-1] if said else 'it said nothing'}); its log is {keep_log(log)}."
        )
    first, last = seen[warm - 1], seen[steps - 1]
    counted = {
        "steps": steps - warm,
        "engine_busy": last.engine_busy - first.engine_busy,
        "memory_bytes": max(one.memory_bytes for one in seen),
        "rows": [one.row for one in seen],
    }
    used = last.cpu_seconds - first.cpu_seconds
    done = Round(last.at - first.at, used, load, counted)
    Console(stderr=True).print(
        f"{log.stem}: {done.seconds / (steps - warm):.3f} s a step, load {load:.1f}", style="dim"
    )
    return done, seen


def keep_log(log: Path) -> Path:
    """A copy of a log that outlives its folder."""
    kept = Path(".visual-r1") / "benchmarks" / "logs"
    kept.mkdir(parents=True, exist_ok=True)
    (kept / log.name).write_bytes(log.read_bytes())
    return kept / log.name


def _new_rows(pid: int, rows: Path, known: int, server: int | None) -> list[Seen]:
    try:
        lines = rows.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    if len(lines) <= known:
        return []
    now = time.perf_counter()
    cpu, busy, memory = _used(pid, server)
    return [Seen(now, cpu, busy, memory, json.loads(line)) for line in lines[known:]]


def _used(pid: int, server: int | None) -> tuple[float, float, int]:
    cpu, busy, memory = 0.0, 0.0, 0
    for process in [*_tree(pid), *([psutil.Process(server)] if server else [])]:
        try:
            cpu += sum(process.cpu_times()[:4])
            if "visual_r1.engine" in process.cmdline():
                busiest = (one.user_time + one.system_time for one in process.threads())
                busy = max(busy, *busiest)
            else:
                memory += process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # It ended meanwhile.
    return cpu, busy, memory


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    for one in reversed(_tree(process.pid)) if process.poll() is None else ():
        try:
            one.terminate()
        except psutil.NoSuchProcess:
            continue
    process.wait(60)
