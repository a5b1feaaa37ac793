"""Damage on the disk: is any of it used in silence, does any of it end in a traceback?

    python benchmarks/damage.py                          # 2,000 damages
    python benchmarks/damage.py --count 100 --kind state --how bit
    python benchmarks/damage.py --seeds 17 23            # those again, with all that was said

One thing is damaged at a time in a copy of a small run, its dataset or its engine home: flipped
bits, random bytes, cuts, zeroed pages, files and rows that are doubled, gone or exchanged, garbage
behind the end. Then come those who read it: a killed run is resumed to its end, an ended one is
started again, a dataset is read whole, a checkpoint is evaluated, and `visual-r1 verify` looks at
what ended. All of it is the product's own; Prefect and the engine's process are left out, since
they would take most of the time (see `damage_runs/life.py`).

    found and said   an error of ours in one sentence, or a warning and another way taken
    harmless         the results are those without the damage, bit for bit
    found by verify  the same, the damaged file lies there as before, and the command finds it
    not read         as before, and nobody finds it
    USED IN SILENCE  the results are others, and nobody said a word
    TRACEBACK        anything but an error of ours, here or in the engine
    HANG             no end in time

The runs are made once, in `--folder`, which is of one tree of the code. Every damage follows from
its seed.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 240.0
LONGEST_START_S = 900.0
A_WORKER = 150
"""Damages until a worker is replaced: its clients of the SDK add up."""
BAD = ("USED IN SILENCE", "TRACEBACK", "HANG")
OUTCOMES = ("found and said", "harmless", "found by verify", "not read", *BAD)


class Worker:
    """A process that damages runs."""

    def __init__(self, folder: Path, number: int) -> None:
        path = f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"
        dropped = ("TINKER_", "PREFECT_", "WANDB_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "damage_runs.worker", str(folder)],
            cwd=folder,
            env=kept | {"PYTHONPATH": path, "DAMAGE_WORKER": str(number)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / f"worker-{number}.log").open("a"),
            text=True,
        )
        self.tried = 0
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        if self._line(LONGEST_START_S) != "ready\n":
            sys.exit(f"a worker did not start: see {folder / f'worker-{number}.log'}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _line(self, within_s: float) -> str | None:
        try:
            return self._lines.get(timeout=within_s)
        except queue.Empty:
            return None

    def ask(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The case of that seed; a process that hangs or dies of it is such a case."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        self.tried += 1
        line = self._line(LONGEST_S)
        if line:
            return json.loads(line)
        outcome = "HANG" if line is None else "TRACEBACK"
        said = "no end in time" if line is None else "the process died"
        self.tried = A_WORKER
        told = {"kind": "?", "how": "?", "file": "?", "what": "", "reader": "", **wanted}
        return told | {"outcome": outcome, "said": [said], "differing": {}, "seconds": LONGEST_S}

    def end(self) -> None:
        """No more of it."""
        self._process.kill()
        self._process.wait()


def tried(
    folder: Path, number: int, seeds: "queue.Queue[int]", chosen: dict[str, str], out: Any
) -> None:
    """Try seeds until there are none."""
    worker: Worker | None = None
    while True:
        try:
            seed = seeds.get_nowait()
        except queue.Empty:
            break
        if worker is None or worker.tried >= A_WORKER:
            if worker is not None:
                worker.end()
            worker = Worker(folder, number)
        out(worker.ask({"seed": seed, **chosen}))
    if worker is not None:
        worker.end()


def table(cases: Iterable[dict[str, Any]], by: str) -> str:
    """Outcomes by the kind of file, or by the damage, as Markdown."""
    count = Counter((case[by], case["outcome"]) for case in cases)
    shown = [name for name in OUTCOMES if any(outcome == name for _, outcome in count)]
    lines = [f"| {by} | {' | '.join(shown)} |", f"| --- |{' ---: |' * len(shown)}"]
    lines += [
        f"| {one} | {' | '.join(str(count[one, name]) for name in shown)} |"
        for one in sorted({one for one, _ in count})
    ]
    totals = [sum(n for (_, outcome), n in count.items() if outcome == name) for name in shown]
    return "\n".join([*lines, f"| **all** | {' | '.join(map(str, totals))} |"])


def told(case: dict[str, Any]) -> str:
    """A case in a paragraph."""
    lines = [
        f"seed {case['seed']} ({case.get('scenario', '?')}): {case['how']} in {case['file']} "
        f"{case['what']}: {case['outcome']} by {case['reader'] or 'nobody'}, "
        f"{case['seconds']:.1f} s",
        *(f"    said: {line}" for line in case["said"]),
        *(f"    differs: {file} {places}" for file, places in case["differing"].items()),
    ]
    if case.get("verified") is not None:
        lines.append(f"    verify: {case['verified'] or 'sound'}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Damage, print the tables and every failure; 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, nargs="+", help="these alone, and all that was said")
    parser.add_argument("--kind", default="", help="files of this kind alone")
    parser.add_argument("--how", default="", help="damages of this kind alone")
    parser.add_argument("--scenario", default="", choices=["", "killed", "ended"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the runs are kept (default: nowhere)")
    parser.add_argument("--out", type=Path, default=Path("damage.jsonl"), help="a row a damage")
    chosen = parser.parse_args(arguments)
    numbers = chosen.seeds or range(chosen.first, chosen.first + chosen.count)
    seeds: queue.Queue[int] = queue.Queue()
    for seed in numbers:
        seeds.put(seed)
    cases: list[dict[str, Any]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, chosen.out.open("a") as log:
        folder = (chosen.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        lock = threading.Lock()

        def note(case: dict[str, Any]) -> None:
            with lock:
                cases.append(case)
                log.write(json.dumps(case) + "\n")
                log.flush()
                if case["outcome"] in BAD or chosen.seeds:
                    print(told(case), flush=True)
                if len(cases) % 50 == 0:
                    bad = sum(one["outcome"] in BAD for one in cases)
                    took = time.monotonic() - began
                    print(f"{len(cases)} damages, {bad} failures, {took:.0f} s", flush=True)

        Worker(folder, 0).end()  # makes the runs, once, before the workers share them
        given = {"kind": chosen.kind, "how": chosen.how, "scenario": chosen.scenario}
        threads = [
            threading.Thread(target=tried, args=(folder, number, seeds, given, note))
            for number in range(chosen.workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"\n{table(cases, 'kind')}\n\n{table(cases, 'how')}\n")
    unseen = Counter(case["kind"] for case in cases if case["outcome"] == "not read")
    print(f"Not read, and found by nobody: {dict(sorted(unseen.items())) or 'none'}.")
    bad = [case["seed"] for case in cases if case["outcome"] in BAD]
    print(f"{len(cases)} damages; failures: {' '.join(map(str, sorted(bad))) or 'none'}.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
