"""How long a start takes: the flags, the first training step, and a start with nothing left to do.

    python benchmarks/startup.py                        # this checkout, three rounds
    python benchmarks/startup.py --beside OTHER         # and another checkout, in turn with it
    python benchmarks/startup.py --into startup.json    # all that the table leaves out

Each round is a new folder: `--help`; a small run until the first row of its metrics stands there,
and to its end; the same command again, which finds all of it done. Seconds of the clock, and CPU
seconds of the command with all processes that it had started by then. Of the last, which of the
large packages it imported, as Python itself says it.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from visual_r1.printing import say

HERE = Path(__file__).parents[1]
SMALL = (
    *("--train.steps", "2", "--train.chunk_steps", "2", "--data.train", "64"),
    *("--data.test", "32", "--data.validation", "16"),
    *("--evaluation.problems", "32", "--evaluation.samples", "2"),
)
LARGE = ("torch", "transformers", "peft", "scipy", "tinker", "prefect", "wandb", "pyarrow")
PACKAGES = ("torch", "transformers", "tinker", "prefect", "pydantic", "numpy", "wandb")


@dataclass(frozen=True)
class Taken:
    """What one start took, in seconds; `imported` are those of `LARGE` in the command itself."""

    what: str
    checkout: str
    seconds: float
    cpu_seconds: float
    load: float
    imported: tuple[str, ...] = ()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", type=Path, help="another checkout of this project")
    parser.add_argument("--into", type=Path, help="a JSON file with every round")
    parser.add_argument("--only", choices=("help", "first", "again"), help="one of the three")
    chosen = parser.parse_args()
    checkouts = [HERE, *([chosen.beside.absolute()] if chosen.beside else [])]
    taken: list[Taken] = []
    for _ in range(chosen.rounds):
        for checkout in checkouts:
            taken += one_round(checkout, chosen.only)
    show(taken, [str(checkout) for checkout in checkouts])
    if chosen.into:
        versions = {name: version(name) for name in PACKAGES} | {
            "python": platform.python_version()
        }
        told = {
            "cores": os.cpu_count(), "versions": versions, "flags": SMALL,
            "rounds": [asdict(one) for one in taken],
        }  # fmt: skip
        chosen.into.write_text(json.dumps(told, indent=2) + "\n")
    return 0


def one_round(checkout: Path, only: str | None) -> list[Taken]:
    """The three starts of one checkout, in a folder of their own."""
    found: list[Taken] = []
    with tempfile.TemporaryDirectory() as folder:
        if only in (None, "help"):
            found.append(start(checkout, folder, ["--help"], "--help"))
        if only != "help":
            metrics = Path(folder, "runs")

            def is_there() -> bool:
                return any(path.stat().st_size for path in metrics.glob("*/metrics.jsonl"))

            found.append(start(checkout, folder, SMALL, "first step", is_there))
        if only in (None, "again"):
            found.append(start(checkout, folder, SMALL, "nothing left to do"))
    return found


def start(
    checkout: Path,
    folder: str,
    flags: Sequence[str],
    what: str,
    is_there: Callable[[], bool] | None = None,
) -> Taken:
    """Start the flow and wait until `is_there`, or to its end; it is let go on to its end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environ |= {"PYTHONPATH": str(checkout), "WANDB_MODE": "disabled"}
    command = [sys.executable, str(checkout / "flows" / "train_flow.py"), *flags]
    if is_there is None:  # the list costs a tenth of a second
        command[1:1] = ["-X", "importtime"]
    began, log = time.monotonic(), Path(folder, "log.txt")
    with log.open("wb") as out:
        process = psutil.Popen(command, cwd=folder, env=environ, stdout=out, stderr=out)
        cpu = 0.0
        while process.poll() is None:
            if is_there is not None and is_there():
                break
            cpu = max(cpu, cpu_of(process))
            time.sleep(0.02)
        seconds = time.monotonic() - began
        cpu = max(cpu, cpu_of(process))
        if process.wait():
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    imported = () if is_there else imported_by(log.read_text(errors="replace"))
    return Taken(what, str(checkout), seconds, cpu, os.getloadavg()[0], imported)


def cpu_of(process: psutil.Popen) -> float:
    """CPU seconds of a process and of those beneath it, also of the ones that have ended."""
    total = 0.0
    with suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                times = one.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def imported_by(said: str) -> tuple[str, ...]:
    """The large packages in the list that `-X importtime` writes."""
    names = {
        line.rpartition("|")[2].strip() for line in said.splitlines() if "import time:" in line
    }
    return tuple(name for name in LARGE if name in names)


def show(taken: Sequence[Taken], checkouts: Sequence[str]) -> None:
    """A row for each start and checkout: median, and the smallest and largest."""
    say("| start | checkout | n | seconds | CPU seconds | load | imported |")
    say("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    for what in dict.fromkeys(one.what for one in taken):
        for checkout in checkouts:
            those = [one for one in taken if (one.what, one.checkout) == (what, checkout)]
            if those:
                cells = [spread([one.seconds for one in those])]
                cells += [spread([one.cpu_seconds for one in those])]
                cells += [f"{statistics.median(one.load for one in those):.1f}"]
                cells += [", ".join(those[-1].imported)]
                say(f"| {what} | {Path(checkout).name} | {len(those)} | {' | '.join(cells)} |")


def spread(values: Sequence[float]) -> str:
    """`median (smallest to largest)`."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    sys.exit(main())
