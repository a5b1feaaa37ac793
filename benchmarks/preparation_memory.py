"""How fast procedural problems are prepared, and how much memory that takes.

    python benchmarks/preparation_memory.py [--problems 100000]

A thread samples the resident memory of the process; the table gives the highest value that was seen
up to each number of problems, the rate since the line before, and the size on disk of what is
unfinished. Below it: the highest memory after the last problem, while shards and the card are
written, and the state of the preparation at its largest beside the finished dataset.
"""

import argparse
import resource
import tempfile
import threading
import time
from pathlib import Path

import psutil

from visual_r1.config import DataSection
from visual_r1.data.dataset import prepare
from visual_r1.data.state_file import STATE_FILE

MARKS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
INTERVAL_S = 0.05


class Table:
    """A progress that prints a line at each mark."""

    def __init__(self, folder: Path) -> None:
        self.peak = self.late_peak = self.unfinished = 0
        self._folder = folder
        self._total = 0
        self._done = self._line_done = 0
        self._line_at = time.perf_counter()
        self._cpu_at = time.process_time()

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:  # noqa: ARG002
        self._total = total
        print(f"{stage}: {total} {unit}\n")
        print("| problems | problems/s | problems/s of CPU time | peak memory, MB | on disk, MB |")
        print("| ---: | ---: | ---: | ---: | ---: |", flush=True)

    def advance(self, n: int = 1, **shown: float) -> None:  # noqa: ARG002
        self._done += n
        if self._done not in MARKS:
            return
        now, cpu = time.perf_counter(), time.process_time()
        count = self._done - self._line_done
        rate, cpu_rate = count / (now - self._line_at), count / (cpu - self._cpu_at)
        disk = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        print(
            f"| {self._done:,} | {rate:.0f} | {cpu_rate:.0f} | {self.peak / 1e6:.0f} "
            f"| {disk / 1e6:.0f} |",
            flush=True,
        )
        self._line_done, self._line_at, self._cpu_at = self._done, now, cpu

    def sample(self, memory: int) -> None:
        """Look at the files, and note `memory` in bytes."""
        if self._done < self._total or not self._total:
            self.peak = max(self.peak, memory)
        else:
            self.late_peak = max(self.late_peak, memory)
        files = self._folder.rglob(f"{STATE_FILE}*")
        self.unfinished = max(self.unfinished, sum(size_of(path) for path in files))

    def finish(self, summary: str = "") -> None:
        print(f"\n{summary}", flush=True)


def main() -> None:
    """Prepare into a temporary folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--problems", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder))
        done = threading.Event()
        sampler = threading.Thread(target=sample, args=(table, done))
        sampler.start()
        try:
            data = DataSection(source="procedural", train=arguments.problems, validation=1, test=1)
            dataset = prepare(data, Path(folder), table)
        finally:
            done.set()
            sampler.join()
        finished = sum(size_of(path) for path in dataset.folder.iterdir())
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nafter the last problem: {table.late_peak / 1e6:.0f} MB")
    print(f"highest of the whole process: {highest:.0f} MiB")
    unfinished = f"state of the preparation {table.unfinished / 1e6:.0f} MB"
    print(f"on disk: dataset {finished / 1e6:.0f} MB, {unfinished}")


def sample(table: Table, done: threading.Event) -> None:
    """Keep the table's peaks up to date until `done`."""
    process = psutil.Process()
    while not done.wait(INTERVAL_S):
        table.sample(process.memory_info().rss)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where it is gone by now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
