"""What a step's batch costs to read, by the number of problems that it is drawn from.

    python benchmarks/batches.py                       # 1,024, 102,400 and 1,000,000 problems

Each set is written once, as preparation writes it, into a temporary folder (1.8 GB for a million),
and batches of random problems are read from it: a table of processor milliseconds a batch, median
and largest, of how long the set takes to open, and of the process's memory. The clock would tell
what else the machine does.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from visual_r1.data.problem import Problem
from visual_r1.data.shards import StoredProblems, finished_shard, problem_row, write_shard
from visual_r1.printing import say

BATCH = 16
SHARD_ROWS = 150_000


def rows(start: int, stop: int) -> Iterator[tuple[dict[str, object], int]]:
    """Rows of the size of the shipped problems: a picture of 1.5 kB and a sentence."""
    draw = random.Random(start)
    for number in range(start, stop):
        problem = Problem(
            id=f"problem-{number:07d}",
            images=(draw.randbytes(1500),),
            problem="<image>Find angle x between the parallel lines.",
            answer=str(number % 180),
            choices=(),
            source="procedural",
            meta={"family": "parallel_lines", "facts": ["top reads 35", "bottom reads 42"]},
        )
        yield problem_row(problem), 1700


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--problems", type=int, nargs="+", default=[1024, 102_400, 1_000_000])
    parser.add_argument("--batches", type=int, default=50)
    chosen = parser.parse_args()
    say(f"| problems | open, CPU ms | batch of {BATCH}, CPU ms: median | largest | memory, MB |")
    say("| ---: | ---: | ---: | ---: | ---: |")
    for count in chosen.problems:
        with tempfile.TemporaryDirectory() as folder:
            starts = range(0, count, SHARD_ROWS)
            files = [
                finished_shard(Path(folder), "train", n, len(starts)) for n in range(len(starts))
            ]
            for file, start in zip(files, starts, strict=True):
                write_shard(file, rows(start, min(start + SHARD_ROWS, count)))
            began = time.process_time()
            problems = StoredProblems(files)
            opened = time.process_time() - began
            draw, taken = random.Random(0), list[float]()
            for _ in range(chosen.batches):
                began = time.process_time()
                for place in draw.sample(range(count), BATCH):
                    _ = problems[place]
                taken.append(1e3 * (time.process_time() - began))
            memory = psutil.Process().memory_info().rss / 1e6
            say(
                f"| {count:,} | {1e3 * opened:.0f} | {statistics.median(taken):.1f} "
                f"| {max(taken):.1f} | {memory:.0f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
