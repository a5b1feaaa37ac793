"""What a chunk costs beside its steps, after 10, 1,000 and 10,000 steps; and memory over many.

    python benchmarks/scaling.py                        # this checkout
    python benchmarks/scaling.py --beside OTHER         # and another one, in turn with it
    python benchmarks/scaling.py --memory 500           # the memory of client and engine instead
    python benchmarks/scaling.py --into scaling.json    # all that the tables leave out

A run folder is made up with so many steps behind it: rows of metrics with the columns of the
quickstart, a checkpoint and a file of rollouts every four steps, a validation every twenty. Then
some chunks do to it what a chunk does, without a server. CPU milliseconds of each part, the median
of the chunks after the first, which reads what a start knows nothing of.

`--memory` trains that many small steps by the library on the embedded engine, and tells the
resident megabytes of both processes as they go.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from visual_r1.config import RunConfig
from visual_r1.printing import say

HERE = Path(__file__).parents[1]
CHUNK_STEPS, CHUNKS = 4, 6
VALIDATE_EVERY = 20
HISTORIES = (10, 1_000, 10_000)
PACKAGES = ("wandb", "pydantic", "pyarrow", "numpy", "scipy")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", type=Path, help="another checkout of this project")
    parser.add_argument("--into", type=Path, help="a JSON file with every round")
    parser.add_argument("--history", type=int, help="one round of this process, told as JSON")
    parser.add_argument("--memory", type=int, metavar="STEPS")
    chosen = parser.parse_args()
    if chosen.history is not None:
        print(json.dumps(measured(chosen.history)))
        return 0
    if chosen.memory:
        told = {"memory": memory_over(chosen.memory)}
    else:
        checkouts = [HERE, *([chosen.beside.absolute()] if chosen.beside else [])]
        told = {"rounds": rounds_of(checkouts, chosen.rounds)}
    if chosen.into:
        told |= {
            "cores": os.cpu_count(), "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
        }  # fmt: skip
        chosen.into.write_text(json.dumps(told, indent=2) + "\n")
    return 0


def rounds_of(checkouts: Sequence[Path], rounds: int) -> list[dict[str, Any]]:
    """All rounds, each a process of its own; the table of their medians is said."""
    found: list[dict[str, Any]] = []
    for _ in range(rounds):
        for history in HISTORIES:
            for checkout in checkouts:
                done = subprocess.run(
                    [sys.executable, __file__, "--history", str(history)],
                    env=os.environ | {"PYTHONPATH": str(checkout), "WANDB_MODE": "offline"},
                    stdout=subprocess.PIPE, text=True, check=True,
                )  # fmt: skip
                parts = json.loads(done.stdout.splitlines()[-1])
                found.append({"checkout": str(checkout), "history": history, "parts": parts})
    for checkout in checkouts:
        say(f"\n{checkout.name}, CPU ms a chunk, n = {rounds}: median (smallest to largest)\n")
        say(f"| part | {' | '.join(f'{one:,} steps' for one in HISTORIES)} |")
        say(f"| --- | {' | '.join('---:' for _ in HISTORIES)} |")
        for name in found[0]["parts"]:
            cells = [
                spread([
                    one["parts"][name] for one in found
                    if one["checkout"] == str(checkout) and one["history"] == history
                ])
                for history in HISTORIES
            ]  # fmt: skip
            say(f"| {name} | {' | '.join(cells)} |")
    return found


def spread(values: Sequence[float]) -> str:
    """`median (smallest to largest)`."""
    return f"{statistics.median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


class Row:
    """The metrics of a made-up step, with as many columns as those of a real one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def row(self) -> dict[str, Any]:
        """As `StepMetrics.row`."""
        numbers = {f"column_{at}": (self.step * 37 + at) % 1009 / 1009 for at in range(40)}
        known = {"accuracy": 0.6, "format_rate": 0.9, "entropy": 0.4, "kl_sampler_learner": 1e-6}
        wave = (self.step * 7919 % 101) / 1010  # steps differ, and nothing rises or falls
        more = {name: value * (1 + wave) for name, value in known.items()}
        lengths = {"response_tokens_mean": 40.0 + wave, "draw_ratio": 1 + wave / 10}
        return {"step": self.step, "updated": True, **more, **lengths, **numbers}


def checkpoint(step: int) -> Any:
    """A row of the ledger."""
    from visual_r1.runs.ledger import LedgerRow

    name = f"tinker://run-{step:08d}:train:0"
    return LedgerRow(
        step=step, state_path=f"{name}/weights/step", sampler_path=f"{name}/sampler_weights/step",
        expires_at=None, config_digest="0" * 8, dataset_digest="0" * 8, backend="embedded",
        created_at="2026-01-01T00:00:00+00:00", updates=step,
        digests={f"rollouts/chunk-{step // CHUNK_STEPS - 1:05d}.parquet": "0" * 64},
    )  # fmt: skip


def validation(step: int) -> Any:
    """A row of a validation of 64 problems."""
    from visual_r1.runs.validations import ValidationRow

    return ValidationRow(
        step=step, n=64, correct=40, accuracy=0.625, accuracy_ci95=(0.5, 0.73), blind_n=64,
        blind_accuracy=0.0, blind_accuracy_ci95=(0.0, 0.06), format_rate=1.0,
        mean_response_tokens=38.0, truncated=0, gave_up=0, failed=0, right="10110100" * 8,
        sampler_path=f"tinker://run-{step:08d}", seconds=1.0, created_at="2026-01-01T00:00:00Z",
    )  # fmt: skip


def make_history(config: RunConfig, steps: int) -> None:
    """A run with so many steps behind it, up to a whole chunk."""
    from pydantic import TypeAdapter

    from visual_r1.jsonl import JsonLines
    from visual_r1.runs.ledger import LedgerRow
    from visual_r1.runs.validations import ValidationRow
    from visual_r1.tables import pa, write_table

    folder = config.run_dir
    (folder / "rollouts").mkdir(parents=True)
    metrics: JsonLines[dict[str, Any]] = JsonLines(
        folder / "metrics.jsonl", TypeAdapter(dict[str, Any])
    )
    metrics.write(metrics.line(Row(step).row()) for step in range(steps))
    ledger = JsonLines(folder / "ledger.jsonl", TypeAdapter(LedgerRow))
    ends = range(CHUNK_STEPS, steps + 1, CHUNK_STEPS)
    ledger.write(ledger.line(checkpoint(step)) for step in ends)
    validations = JsonLines(folder / "validation.jsonl", TypeAdapter(ValidationRow))
    validated = range(0, steps + 1, VALIDATE_EVERY)
    validations.write(validations.line(validation(step)) for step in validated)
    for end in ends:
        table = pa.table({"step": list(range(end - CHUNK_STEPS, end)), "response": ["x" * 99] * 4})
        write_table(folder / f"rollouts/chunk-{end // CHUNK_STEPS - 1:05d}.parquet", table)


def measured(history: int) -> dict[str, float]:
    """CPU milliseconds of each part of a chunk behind so many steps."""
    from visual_r1.report import wandb as tracking
    from visual_r1.runs.alarms import check_alarms
    from visual_r1.runs.journal import Journal
    from visual_r1.runs.ledger import Ledger
    from visual_r1.runs.validations import Validations

    wandb: Any = tracking
    if hasattr(wandb, "OFFLINE_INTERVAL_S"):  # of before: one that is a minute old is written anew
        wandb.OFFLINE_INTERVAL_S = 0.0
    steps = history // CHUNK_STEPS * CHUNK_STEPS
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        config = RunConfig(preset="quickstart", output_dir=Path(place))
        config = config.model_copy(
            update={"train": config.train.model_copy(update={"steps": 10**6})}
        )
        make_history(config, steps)
        run_dir = config.run_dir
        parts: dict[str, list[float]] = {}

        def timed(name: str, work: Callable[[], object]) -> None:
            beneath, began = cpu_beneath(), time.process_time()
            work()
            mine = time.process_time() - began
            parts.setdefault(name, []).append(1000 * (mine + cpu_beneath() - beneath))

        def chunk(first: int) -> None:
            end = first + CHUNK_STEPS

            def rows() -> None:
                for step in range(first, end):
                    Journal(run_dir).append(Row(step))

            timed("journal.rewind", lambda: Journal(run_dir).rewind(first))
            timed("journal.append, 4 rows", rows)
            timed("journal.add_to_last", lambda: Journal(run_dir).add_to_last(seconds=1.0))
            timed("journal.digest_of", lambda: Journal(run_dir).digest_of(end - 1))
            timed("ledger.append", lambda: Ledger(run_dir).append(checkpoint(end)))
            timed("ledger.rows, 8 times", lambda: [Ledger(run_dir).rows() for _ in range(8)])
            timed("validations.record", lambda: Validations(run_dir).record(validation(end)))
            timed("alarms", lambda: check_alarms(config, end))
            timed("W&B's offline copy", lambda: wandb.track_steps(config))

        for number in range(CHUNKS):
            chunk(steps + number * CHUNK_STEPS)
        return {name: statistics.median(values[1:]) for name, values in parts.items()} | {
            "all of the first chunk of a start": sum(values[0] for values in parts.values())
        }


def cpu_beneath() -> float:
    """CPU seconds of the processes beneath this one: W&B's library has one that writes its files.

    Itself it takes milliseconds, which are nobody's.
    """
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system
    return total


def memory_over(steps: int) -> list[tuple[int, float, float]]:
    """(step, megabytes of the client, of the engine) as a run of small steps goes on."""
    from visual_r1.data.dataset import prepare
    from visual_r1.report import tracking
    from visual_r1.runs.alarms import check_alarms
    from visual_r1.runs.chunk import train_chunk
    from visual_r1.runs.run import open_run

    found: list[tuple[int, float, float]] = []
    say("| steps | client, MB | engine, MB |\n| ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        small: dict[str, Any] = {
            "data": {"train": 256, "test": 32, "validation": 16},
            "train": {"steps": steps, "batch_size": 2, "group_size": 4, "chunk_steps": 10},
            "sampling": {"max_new_tokens": 40},
        }
        base = RunConfig(preset="quickstart", output_dir=Path(place))
        config = base.model_copy(
            update={
                name: getattr(base, name).model_copy(update=values)
                for name, values in small.items()
            }
        )
        config.run_dir.mkdir(parents=True)
        row = None
        dataset = prepare(config.data, config.output_dir)
        with open_run(config, dataset) as run:
            while row is None or row.step < steps:
                row = train_chunk(run, row)
                check_alarms(config, row.step)
                tracking.track_steps(config)
                mine, theirs = megabytes()
                found.append((row.step, mine, theirs))
                if row.step % 50 == 0 or row.step == 10:
                    say(f"| {row.step} | {mine:,.0f} | {theirs:,.0f} |")
        tracking.track_run(config)
    return found


def megabytes() -> tuple[float, float]:
    """What this process and its engine have in memory."""
    me = psutil.Process()
    engines = [one for one in me.children() if "visual_r1.engine" in one.cmdline()]
    resident = [one.memory_info().rss / 1e6 for one in (me, *engines)]
    return round(resident[0], 1), round(sum(resident[1:]), 1)


if __name__ == "__main__":
    sys.exit(main())
