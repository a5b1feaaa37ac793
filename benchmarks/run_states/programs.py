"""Two small runs, by the code of any tree: what starts them, and what kills them."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from run_states.contents import rows
from trials.programs import clean_environment

ROOT = Path(__file__).resolve().parents[2]
NAMES_PROGRAM = Path(__file__).resolve().with_name("names.py")
OUTPUT = "output.txt"

SMALL = """data.train=64 data.validation=8 data.test=16 train.steps=7 train.chunk_steps=3
train.batch_size=4 train.group_size=4 evaluation.samples=2 validation.every=1
curriculum.rule=contrast algorithm.dynamic_rounds=1 no-logging.wandb
backend.checkpoint_ttl_seconds=99999999"""
RUNS = {
    "quickstart": "",
    "vision_sr1": """model.lora_rank=1 second_pass.minus_question_only reward.length=0.1
train.loss=ppo algorithm.epochs=2 algorithm.minibatches=2 algorithm.advantage=dr_grpo
algorithm.normalization=token algorithm.kl_coefficient=0.02 optimizer.warmup_steps=1
optimizer.schedule=linear optimizer.schedule_steps=9 alarms.window=4 alarms.max_kl=1e-18
prices.prefill=1 prices.sample=2 prices.train=3""",
}
"""Presets of two runs that have their default names, and flags without dashes: most of what can go
another way. The small `max_kl` sets an alarm off."""


@contextmanager
def tree_of(commit: str) -> Generator[Path]:
    """That commit's files, in a folder that goes afterwards."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as temporary:
        tree = str(Path(temporary) / "tree")
        subprocess.run([*git, "add", "--quiet", "--detach", tree, commit], check=True)
        try:
            yield Path(tree)
        finally:
            subprocess.run([*git, "remove", "--force", tree], check=True)


def start(tree: Path, place: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Python in `place` with the code of `tree`, its output in a file there."""
    environment = clean_environment() | {"PYTHONPATH": str(tree)}
    with (place / OUTPUT).open("w") as out:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=place, env=environment, stdout=out, stderr=out
        )


def run(tree: Path, place: Path, *arguments: str) -> str:
    """The same, to its end; empty, or what was wrong."""
    status = start(tree, place, *arguments).wait()
    said = (place / OUTPUT).read_text()
    return f"exit status {status}: {said.strip()[-1500:]}" if status else ""


def train(tree: Path, preset: str) -> list[str]:
    """The arguments of a user's command."""
    flags = [f"--{flag}" for flag in f"{SMALL} {RUNS[preset]}".split()]
    return [str(tree / "flows/train_flow.py"), f"--preset={preset}", *flags]


def resume(folder: Path, *flags: str) -> list[str]:
    """The arguments of `visual-r1 resume`."""
    return ["-m", "flows.console", "resume", str(folder), *flags]


def go_on(tree: Path, place: Path, preset: str) -> str:
    """A killed run to its end: one by its command, the other by its folder; or what was wrong."""
    ways = {"quickstart": train(tree, preset), "vision_sr1": resume(run_of(place, preset))}
    return run(tree, place, *ways[preset])


def run_of(place: Path, preset: str) -> Path:
    """The folder of the preset's run."""
    [only] = (place / "runs").glob(f"{preset}-*")
    return only


def kill_in_second_chunk(tree: Path, place: Path, preset: str) -> None:
    """Train, and kill flow, engine and server after the first checkpoint."""
    process = start(tree, place, *train(tree, preset))
    while not is_in_second_chunk(place, preset):
        if process.poll() is not None:
            sys.exit(f"{preset} ended before it was killed: {(place / OUTPUT).read_text()}")
        time.sleep(0.01)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(family)
    if not is_in_second_chunk(place, preset):
        sys.exit(f"{preset} was killed too late: make the runs once more.")


def is_in_second_chunk(place: Path, preset: str) -> bool:
    """Whether the checkpoint of three steps is the only one, and a fourth step is done."""
    try:
        done = [rows(run_of(place, preset) / name) for name in ("ledger.jsonl", "metrics.jsonl")]
    except (ValueError, FileNotFoundError):
        return False
    return len(done[0]) == 1 and len(done[1]) > 3


def names_by(tree: Path) -> dict[str, list[Any]]:
    """The same by the code of `tree`."""
    with tempfile.TemporaryDirectory() as temporary:
        if wrong := run(tree, Path(temporary), str(NAMES_PROGRAM)):
            sys.exit(wrong)
        return json.loads((Path(temporary) / OUTPUT).read_text())
