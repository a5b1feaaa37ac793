"""Whole runs, watched from outside: when each step's row is written, and what was used by then.

Nothing of a run is asked but that it writes a line of JSON a step into a file. Its start, the first
steps and its end are left out; what is measured lies between two rows.
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from beside.faults import BenchmarkError
from beside.rounds import Round

LOOK_S = 0.01
LOOK_AT_MEMORY_S = 0.25


@dataclass(frozen=True)
class Used:
    """What a run and the engine that it uses have used so far."""

    cpu_seconds: float
    own_cpu_seconds: float
    """Of the run's first process alone."""
    engine_threads: Mapping[int, float]
    """CPU seconds of each thread of the engine, by its id."""
    own_memory_bytes: int
    """Resident, of the run's first process."""


@dataclass(frozen=True)
class Seen:
    """A row, when it was there, and what was used by then."""

    at: float
    used: Used
    row: Mapping[str, Any]


def watched_run(
    command: Sequence[str],
    environment: Mapping[str, str],
    rows: Path,
    steps: int,
    warm: int,
    log: Path,
    server: int | None = None,
) -> Round:
    """Run `command`; the `steps - warm` steps behind the first `warm` as one round.

    What would come behind the last step is cut off. `server` is the process of an engine that the
    run uses and did not start. Raises `BenchmarkError` where the run ends before it has written so
    many rows.
    """
    if warm >= steps:
        raise BenchmarkError(
            f"of {steps} steps the first {warm} are left out, so that nothing is left: raise "
            "--steps, or lower --warm."
        )
    load = os.getloadavg()[0]
    seen: list[Seen] = []
    peak, looked = 0, 0.0
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command), env=dict(environment), stdin=subprocess.DEVNULL, stdout=output,
            stderr=output,
        )  # fmt: skip
        try:
            while process.poll() is None and len(seen) < steps:
                time.sleep(LOOK_S)
                new = _new_rows(rows, len(seen))
                if new or time.perf_counter() - looked > LOOK_AT_MEMORY_S:
                    looked = time.perf_counter()
                    used = _used(process.pid, server)
                    peak = max(peak, used.own_memory_bytes)
                    seen += [Seen(looked, used, row) for row in new]
        finally:
            _end(process)
    if len(seen) < steps:
        said = log.read_text(errors="replace").strip().splitlines()
        raise BenchmarkError(
            f"{Path(command[1]).name} wrote {len(seen)} of {steps} steps "
            f"({said[-1] if said else 'it said nothing'}); its log is {keep_log(log)}."
        )
    done = _between(seen[warm - 1], seen[steps - 1], steps - warm, load)
    done.counted["peak_bytes"] = peak
    done.counted["rows"] = [one.row for one in seen]
    Console(stderr=True).print(
        f"{log.stem}: {done.seconds / (steps - warm):.3f} s a step, load {load:.1f}", style="dim"
    )
    return done


def _between(first: Seen, last: Seen, steps: int, load: float) -> Round:
    begun, ended = first.used, last.used
    before = begun.engine_threads
    # The one that computes, on a processor: the busiest meanwhile, which it need not have been
    # before, when another had imported everything.
    busiest = max((s - before.get(t, 0.0) for t, s in ended.engine_threads.items()), default=0.0)
    counted: dict[str, Any] = {
        "steps": steps,
        "engine_busy": busiest,
        "own_cpu_seconds": ended.own_cpu_seconds - begun.own_cpu_seconds,
    }
    used = ended.cpu_seconds - begun.cpu_seconds
    return Round(last.at - first.at, used, load, counted)


def keep_log(log: Path) -> Path:
    """A copy of a log that outlives its folder."""
    kept = Path(".visual-r1") / "benchmarks" / "logs"
    kept.mkdir(parents=True, exist_ok=True)
    (kept / log.name).write_bytes(log.read_bytes())
    return kept / log.name


def _new_rows(rows: Path, known: int) -> list[Mapping[str, Any]]:
    try:
        lines = rows.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines[known:]]


def _used(pid: int, server: int | None) -> Used:
    cpu = own_cpu = 0.0
    memory, threads = 0, dict[int, float]()
    for process in [*_tree(pid), *([psutil.Process(server)] if server else [])]:
        try:
            # With those of children that have ended.
            cpu += sum(process.cpu_times()[:4])
            if process.pid == pid:
                times = process.cpu_times()
                own_cpu, memory = times.user + times.system, process.memory_info().rss
            elif "visual_r1.engine" in process.cmdline():
                threads = {one.id: one.user_time + one.system_time for one in process.threads()}
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # It ended meanwhile.
    return Used(cpu, own_cpu, threads, memory)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    """At once: what was to be measured is there."""
    for one in _tree(process.pid) if process.poll() is None else ():
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(60)
