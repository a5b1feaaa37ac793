"""How fast problems are prepared, the more of them there are, and how much memory that takes.

    python benchmarks/preparation_memory.py [--problems 100000]
    python benchmarks/preparation_memory.py --problems 1000000 --drawings [--questions 10000]
                                            [--folder FOLDER] [--spare GB]

Problems are procedural, or cheap drawings of 96 x 96 in a Parquet file that is written first, cut
by a hash of their ids, so many questions over them.

A thread samples the resident memory of the process, and of those that it starts; the table gives
the highest values that were seen up to each number of problems, the rate since the line before
(processor time is that of all of them), and the size on disk of what is unfinished. Below it: the
highest memory after the last problem, while shards and the card are written, and the state of the
preparation at its largest beside the finished dataset.

A million take an hour or two, and some ten gigabytes in `--folder`. Whoever stops it (Ctrl-C, or a
plain `kill`) gets the line of where it was; it stops by itself where less than `--spare` gigabytes
of the disk are free.
"""

import argparse
import io
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from visual_r1.config import DataSection
from visual_r1.data.dataset import prepare
from visual_r1.data.state_file import STATE_FILE

MARKS = (
    *(1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000),
    *(250_000, 500_000, 750_000, 1_000_000),
)
INTERVAL_S = 0.25


class Stopped(Exception):
    """Somebody stopped it, or the disk is nearly full; the message says which."""


class Table:
    """A progress that prints a line at each mark."""

    def __init__(self, folder: Path) -> None:
        self.peak = self.late_peak = self.unfinished = 0
        self._folder = folder
        self._total = 0
        self._done = self._line_done = 0
        self._others = dict[int, float]()
        self._began = self._line_at = time.perf_counter()
        self._cpu_at = 0.0
        self._stage = ""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:  # noqa: ARG002
        self._stage, self._total = stage, total
        print(f"{stage}: {total} {unit}, {time.perf_counter() - self._began:.0f} s in\n")
        if stage != "prepare":
            return
        self._line_at, self._cpu_at = time.perf_counter(), self._cpu()
        print("| problems | /s | /s of CPU time | of it this process | memory, MB | on disk, MB |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)

    def _cpu(self) -> float:
        return time.process_time() + sum(self._others.values())

    def advance(self, n: int = 1, **shown: float) -> None:  # noqa: ARG002
        if self._stage != "prepare":
            return
        self._done += n
        if self._done in MARKS:
            self.line()

    def line(self) -> None:
        """What was seen since the line before."""
        now, cpu = time.perf_counter(), self._cpu()
        count = self._done - self._line_done
        rate, cpu_rate = count / (now - self._line_at), count / (cpu - self._cpu_at)
        disk = sum(map(size_of, self._folder.rglob("*")))
        print(
            f"| {self._done:,} | {rate:.0f} | {cpu_rate:.0f} | {time.process_time() / cpu:.0%} "
            f"| {self.peak / 1e6:.0f} | {disk / 1e6:.0f} |",
            flush=True,
        )
        self._line_done, self._line_at, self._cpu_at = self._done, now, cpu

    def waiting(self, reason: str) -> None:
        if reason:
            print(f"\nwaiting: {reason}\n", flush=True)

    def sample(self, memory: int, others: dict[int, float]) -> None:
        """Look at the files; note `memory` in bytes, and CPU seconds of other processes."""
        self._others |= others
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--problems", type=int, default=100_000)
    parser.add_argument("--drawings", action="store_true", help="a Parquet file of drawings")
    parser.add_argument("--questions", type=int, default=10_000, help="of the drawings")
    parser.add_argument("--folder", type=Path, help="for what is written; emptied in the end")
    parser.add_argument("--spare", type=float, default=5.0, help="gigabytes to leave free")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        tempfile.TemporaryDirectory(dir=arguments.folder) as source,
    ):
        try:
            measure(arguments, Path(folder), Path(source))
        except Stopped as error:
            print(f"\nstopped: {error}", flush=True)
            sys.exit(1)


def measure(arguments: argparse.Namespace, folder: Path, source: Path) -> None:
    """Prepare into `folder` and print the table; of what was seen where it is stopped."""
    data = DataSection(source="procedural", train=arguments.problems, validation=1, test=1)
    if arguments.drawings:
        draw(source / "train.parquet", arguments.problems, arguments.questions)
        data = DataSection(source=str(source))
    table, done = Table(folder), threading.Event()
    sampler = threading.Thread(target=sample, args=(table, done, folder, arguments.spare))
    sampler.start()
    finished = "not finished"
    try:
        dataset = prepare(data, folder, table)
        finished = f"{sum(size_of(path) for path in dataset.folder.iterdir()) / 1e6:.0f} MB"
    except Stopped:
        table.line()
        raise
    finally:
        done.set()
        sampler.join()
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"\nafter the last problem: {table.late_peak / 1e6:.0f} MB")
        print(f"highest of the whole process: {highest:.0f} MiB")
        unfinished = f"state of the preparation {table.unfinished / 1e6:.0f} MB"
        print(f"on disk: dataset {finished}, {unfinished}", flush=True)


def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Give up where a signal comes, once."""
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(f"{signal.Signals(number).name} came")


def draw(path: Path, count: int, questions: int) -> None:
    """Write so many small drawings as a source, with so many questions in turn."""
    random.seed(0)
    schema = pa.schema(
        [("id", "string"), ("image", "binary"), ("problem", "string"), ("answer", "string")]
    )
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        for start in range(0, count, 1000):
            rows = [
                {
                    "id": f"drawing-{number:07d}",
                    "image": drawing(number),
                    "problem": f"Find angle {number % questions} of the figure.",
                    "answer": str(number % 180),
                }
                for number in range(start, min(start + 1000, count))
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def drawing(number: int) -> bytes:
    """A triangle of any place and size under a number, 96 x 96."""
    image = Image.new("RGB", (96, 96), "white")
    pen = ImageDraw.Draw(image)
    corners = [(random.randrange(4, 92), random.randrange(16, 92)) for _ in range(3)]
    pen.polygon(corners, outline="black", width=random.randrange(1, 4))
    pen.text((2, 2), str(number), fill="black")
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def sample(table: Table, done: threading.Event, folder: Path, spare: float) -> None:
    """Keep the table's peaks up to date until `done`; stop where the disk has too little left."""
    process = psutil.Process()
    while not done.wait(INTERVAL_S):
        memory, others = process.memory_info().rss, dict[int, float]()
        for child in process.children():
            with suppress(psutil.Error):
                memory += child.memory_info().rss
                times = child.cpu_times()
                others[child.pid] = times.user + times.system
        table.sample(memory, others)
        if shutil.disk_usage(folder).free < spare * 1e9:
            print(f"\nless than {spare:g} GB are free", flush=True)
            signal.raise_signal(signal.SIGTERM)  # to the main thread
            return


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where it is gone by now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
