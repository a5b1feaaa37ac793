"""Random kills: training, engine or both, at random moments; does each run end the same?

    python benchmarks/kills.py                        # 95 through the chunk function, 5 the flow
    python benchmarks/kills.py --kills 10 --flow-kills 0 --seed 3

Each run is killed up to `--a-run` times, started again where the training was killed, and then let
go to its end. There its weights, metrics, rollouts and checkpoints must be those of a run that
nobody disturbed, bit for bit. Of an engine that is killed alone the living training must recover by
itself. A fifth of the kills are drawn uniformly over the time of a run, two by its events, so that
steps get their share beside the slow start, and two over the saving of a checkpoint.
Everything is drawn from `--seed`; what a kill hits depends on the machine's pace as well.
"""

import argparse
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TextIO

import psutil

from visual_r1.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.errors import VisualR1Error
from visual_r1.export import export
from visual_r1.progress import PlainProgress
from visual_r1.rl.chunk import train_chunk
from visual_r1.rl.journal import read_rollouts
from visual_r1.rl.resume import resume_point
from visual_r1.run_folder import open_run_folder

ROOT = Path(__file__).parents[1]
STEPS, CHUNK_STEPS = 8, 2
NAME = "killed"
ENGINE = "visual_r1.engine"

Victim = Literal["training", "engine", "both"]
Way = Literal["chunks", "flow"]

# What a line of the program says about what it does from there on; the first that fits counts.
PHASES = (
    ("from step", "opening"),
    ("checkpoint ", "opening"),
    ("exported", "end"),
    ("export: done", "final evaluation"),
    ("export", "export"),
    ("evaluate baseline: done", "opening"),
    ("evaluate baseline", "baseline evaluation"),
    ("evaluate final: done", "report"),
    ("evaluate final", "final evaluation"),
    ("training, steps", "steps"),
)
SAVING = "saving"


def small_config(folder: Path) -> RunConfig:
    """Small steps, with a coin flip in the reward: every step updates, whatever the model can do.

    Second passes are on, so that a step has all the requests that a step can have.
    """
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "run": {"name": NAME},
            "backend": {"threads": 1, "recoveries_per_hour": 100},
            "data": {"train": 8, "validation": 4, "test": 4},
            "train": {
                "steps": STEPS,
                "chunk_steps": CHUNK_STEPS,
                "batch_size": 2,
                "group_size": 4,
                "skip_without_contrast": False,
            },
            "prompt": {"template": "scan_think"},
            "second_pass": {"enabled": True},
            "sampling": {"max_new_tokens": 32},
            "reward": {"random": 1.0},
        }
    )


def train_in_chunks(folder: Path) -> None:
    """The library's training without Prefect; a line on stdout at each event."""
    config = small_config(folder)
    progress = PlainProgress(sys.stdout, interval_s=0)
    with open_run_folder(config) as run_dir, open_backend(config) as backend:
        dataset = prepare(config.data, config.output_dir)
        row = resume_point(config, backend, dataset, run_dir)
        print(f"from step {row.step if row else 0}", flush=True)
        while row is None or row.step < STEPS:
            row = train_chunk(config, backend, dataset, run_dir, row, progress)
            print(f"checkpoint {row.step}", flush=True)
        export(config, backend, run_dir, row, progress)
    print("exported", flush=True)


def command(way: Way, folder: Path) -> list[str]:
    """What is started, and killed."""
    if way == "chunks":
        return [sys.executable, str(Path(__file__)), "--train-in", str(folder)]
    flags = {
        "run.name": NAME,
        "output-dir": folder,
        "backend.threads": 1,
        "data.train": 64,
        "data.validation": 8,
        "data.test": 24,
        "train.steps": 6,
        "train.chunk_steps": 2,
        "train.batch_size": 4,
        "train.group_size": 4,
        "evaluation.samples": 2,
    }
    given = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    return [sys.executable, str(ROOT / "flows/train_flow.py"), *given, "--no-logging.wandb"]


def outcome(folder: Path) -> dict[str, Any]:
    """What a finished run left, without times."""
    run = folder / "runs" / NAME
    ledger = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    reports = [json.loads(path.read_text()) for path in run.glob("evaluations/*/report.json")]
    return {
        "weights": (run / "export/adapter/adapter_model.safetensors").read_bytes(),
        "metrics": [
            {name: value for name, value in row.items() if not name.startswith("seconds_")}
            for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        ],
        "rollouts": [
            row
            for path in sorted(run.glob("rollouts/*"))
            for row in read_rollouts(path).to_pylist()
        ],
        "checkpoints": [(row["step"], row["updates"]) for row in ledger],
        "accuracy": sorted(report["accuracy"] for report in reports),
    }


@dataclass(frozen=True)
class Pace:
    """How an undisturbed run went: its seconds, its events, and the seconds a save takes."""

    seconds: float
    events: int
    save_seconds: float


class Life:
    """One start of the program, and what it said."""

    def __init__(self, way: Way, folder: Path) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TINKER_", "PREFECT_", "WANDB_"))
        }
        self.began = time.monotonic()
        self.phase = "start"
        self.events: list[tuple[float, str]] = []
        self.output: list[str] = []
        self._news: queue.Queue[None] = queue.Queue()
        self.process = subprocess.Popen(
            command(way, folder),
            env=environment | {"TINKER_TELEMETRY": "0"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            found = _phase_of(line)
            if found is not None:
                self.phase = found
                self.events.append((time.monotonic() - self.began, found))
                self._news.put(None)

    def reach(self, aim: "Aim") -> bool:
        """Wait for the moment; False where the program ended before."""
        seen = len(self.events)
        if aim.events or aim.save:
            while not self._is_reached(aim, seen):
                if self.process.poll() is not None:
                    return False
                try:
                    self._news.get(timeout=0.2)
                except queue.Empty:
                    continue
        try:
            self.process.wait(aim.seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _is_reached(self, aim: "Aim", seen: int) -> bool:
        later = self.events[seen:]
        if aim.save:
            return sum(phase == SAVING for _, phase in later) >= aim.save
        return len(later) >= aim.events

    def kill(self, victim: Victim) -> Victim:
        """Kill, and see that nobody is left behind; returns who was there to be killed."""
        engine = self._engine()
        if victim != "training" and engine is None:
            victim = "training"
        if engine is not None and victim != "training":
            engine.send_signal(signal.SIGKILL)
            engine.wait(timeout=60)
        if victim != "engine":
            self.process.kill()
            self.process.wait()
            self._reader.join()
            if engine is not None and engine.is_running():
                engine.wait(timeout=120)
        return victim

    def end(self) -> int:
        """Let it go to its end; the exit status."""
        status = self.process.wait(timeout=1200)
        self._reader.join()
        return status

    def _engine(self) -> psutil.Process | None:
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if ENGINE in child.cmdline():
                    return child
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return None
        return None


def _phase_of(line: str) -> str | None:
    text = line.strip()
    if text.startswith("training, steps") and ": done" in text:
        return SAVING
    return next((phase for start, phase in PHASES if text.startswith(start)), None)


@dataclass(frozen=True)
class Aim:
    """A moment: after `events` more lines, or after the begin of the `save`th save; then seconds
    more."""

    events: int
    save: int
    seconds: float


def draw(rng: random.Random, pace: Pace) -> Aim:
    """The next moment to kill at."""
    how = rng.choice(("time", "event", "event", "save", "save"))
    if how == "time":
        return Aim(0, 0, rng.uniform(0, pace.seconds))
    if how == "event":
        return Aim(rng.randint(1, pace.events // 2), 0, rng.uniform(0, pace.save_seconds))
    return Aim(0, rng.choice((1, 1, 2)), rng.uniform(0, pace.save_seconds))


def undisturbed(way: Way, folder: Path) -> tuple[dict[str, Any], Pace]:
    """The reference, and its pace."""
    life = Life(way, folder)
    status = life.end()
    if status != 0:
        sys.exit(f"the undisturbed run failed:\n{''.join(life.output)}")
    times = life.events
    saves = [after - at for (at, phase), (after, _) in pairwise(times) if phase == SAVING]
    pace = Pace(time.monotonic() - life.began, len(times), sum(saves) / len(saves))
    return outcome(folder), pace


def killed_run(
    way: Way, number: int, seed: int, most: int, reference: dict[str, Any], pace: Pace, log: TextIO
) -> list[dict[str, Any]]:
    """One run with up to `most` kills; a row a kill. Its last row holds what differs in the end."""
    rng = random.Random(f"{seed}-{way}-{number}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        life = Life(way, folder)
        while len(rows) < most and life.reach(draw(rng, pace)):
            phase = life.phase
            victim = life.kill(rng.choice(("training", "engine", "both")))
            rows.append({"way": way, "run": number, "phase": phase, "victim": victim})
            if victim != "engine":
                life = Life(way, folder)
        status = life.end()
        if status == 0:
            found = outcome(folder)
            differing = [name for name in reference if found[name] != reference[name]]
        else:
            differing = [f"exit status {status}"]
            sys.stderr.write("".join(life.output[-20:]))
        for row in rows:
            row["differing"] = differing
            log.write(json.dumps(row) + "\n")
        log.flush()
    return rows


def measure(way: Way, kills: int, a_run: int, seed: int, log: TextIO) -> list[dict[str, Any]]:
    """Kill runs until `kills` kills were done."""
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        reference, pace = undisturbed(way, Path(temporary))
    print(f"{way}: undisturbed {pace}", flush=True)
    number = 0
    while len(rows) < kills:
        rows += killed_run(way, number, seed, min(a_run, kills - len(rows)), reference, pace, log)
        number += 1
        same = sum(not row["differing"] for row in rows)
        took = time.monotonic() - began
        print(f"{way}: {len(rows)} kills, {same} the same, {took:.0f} s", flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Kills by phase and victim, as Markdown."""
    victims: tuple[Victim, ...] = ("training", "engine", "both")
    count = Counter((row["way"], row["phase"], row["victim"]) for row in rows)
    lines = ["| way | phase | training | engine | both |", "| --- | --- | --- | --- | --- |"]
    for way, phase in sorted({(row["way"], row["phase"]) for row in rows}):
        cells = " | ".join(str(count[way, phase, victim]) for victim in victims)
        lines.append(f"| {way} | {phase} | {cells} |")
    same = sum(not row["differing"] for row in rows)
    runs = len({(row["way"], row["run"]) for row in rows})
    return "\n".join([*lines, "", f"{len(rows)} kills in {runs} runs; {same} ended the same."])


def main() -> int:
    """Measure, print the table; 1 where a run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=95, help="through the chunk function")
    parser.add_argument("--flow-kills", type=int, default=5, help="through the flow command")
    parser.add_argument("--a-run", type=int, default=6, help="kills a run, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("kills.jsonl"), help="a row a kill")
    parser.add_argument("--train-in", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.train_in is not None:
        try:
            train_in_chunks(chosen.train_in)
        except VisualR1Error as error:
            sys.exit(f"error: {error}")
        return 0
    with chosen.out.open("a", encoding="utf-8") as log:
        rows = measure("chunks", chosen.kills, chosen.a_run, chosen.seed, log)
        if chosen.flow_kills:
            rows += measure("flow", chosen.flow_kills, 3, chosen.seed, log)
    print(table(rows))
    return 0 if not any(row["differing"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
