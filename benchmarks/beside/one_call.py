"""One call on a card: its parts one after the other, in the time that there is.

A card is lent for minutes: a part that fails, or has no time left, is a row of the table.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beside.environments import TRANSFORMERS, python_of
from beside.faults import BenchmarkError
from beside.floors import Rates
from beside.results import Results
from beside.shapes import SHAPES, bytes_of
from beside.sides import as_now

BENCHMARKS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    dense: str
    mixture: str
    prompts: int
    group: int
    tokens: tuple[int, int]
    mixture_prompts: int
    micro_batch: int


CARD = Sizes("2b", "30b-a3b", 32, 8, (256, 768), 16, 16)
SMALL = Sizes("toy", "toy-a3b", 4, 2, (12, 24), 2, 4)


class Run:
    """The rows of the table, the results, and what is left of the time."""

    def __init__(self, chosen: argparse.Namespace, folder: Path, results: Results) -> None:
        self.device: str = "cpu" if chosen.small else "cuda"
        self.sizes = SMALL if chosen.small else CARD
        self.folder, self.results = folder, results
        self.until = time.monotonic() + chosen.budget
        self.json: Path | None = chosen.json
        self.rows: list[list[str]] = []
        self.rates = Rates(1.0, 1.0)
        self.python = python_of(TRANSFORMERS, chosen.peers)

    @property
    def left_s(self) -> float:
        """Of the time, but for what the table takes."""
        return max(1.0, self.until - time.monotonic() - 5.0)

    def tell(self, what: str, seconds: float | None, figure: str, floor_s: float | None) -> None:
        """A row of the table."""
        times = f"{seconds / floor_s:.1f}" if seconds is not None and floor_s else ""
        self.rows.append([what, f"{seconds:.2f}" if seconds is not None else "", figure, times])
        self.results.facts[what] = {"seconds": seconds, "figure": figure, "floor_s": floor_s}
        if self.json is not None:  # Whatever ends the call, this much is there.
            self.results.write(self.json)
        print(f"{what}: {'' if seconds is None else f'{seconds:.2f} s, '}{figure}", flush=True)

    def part(self, name: str, needs_s: float, work: Callable[[], None]) -> None:
        """Run a part, where there is time for it; one that fails is a row, and no more."""
        if self.left_s < needs_s and self.device == "cuda":
            self.tell(name, None, f"left out: {self.left_s:.0f} s were left", None)
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the others go on
            self.tell(name, None, f"failed: {type(error).__name__}: {str(error)[:300]}", None)


def make(run: Run, folder: Path, shape: str, layers: int | None) -> None:
    """A model's folder, made by a process of its own, which frees the card."""
    if (folder / "config.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "beside.shapes", shape, str(folder), "--device", run.device]
    command += ["--layers", str(layers)] if layers else []
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=as_now(), timeout=run.left_s,
            cwd=BENCHMARKS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{shape} could not be made in the time left.") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise BenchmarkError(f"{shape} could not be made: {said[-1] if said else 'no word'}.")
    run.tell(f"{shape}, made and saved", time.perf_counter() - began, done.stdout.strip(), None)


def layers_that_fit(run: Run) -> int:
    """As many layers of the mixture as the disk has room for."""
    shape = SHAPES[run.sizes.mixture]
    room = shutil.disk_usage(run.folder).free * 0.95
    width = 2 if run.device == "cuda" else 4
    fitting = [n for n in range(1, shape.layers + 1) if bytes_of(shape, n, width) <= room]
    return fitting[-1] if fitting else 1
