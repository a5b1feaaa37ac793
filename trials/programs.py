"""The two programs that are killed: the library's training in chunks, and the flow's command."""

import os
import sys
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]
CHUNKS_PROGRAM = ROOT / "trials/train_chunks.py"
FLOW_PROGRAM = ROOT / "flows/train_flow.py"

Way = Literal["chunks", "stale", "validated", "supervised", "flow"]
Victim = Literal["training", "engine", "both"]

SMALL_FLOW: dict[str, object] = {
    "run.name": "small",
    "data.train": 64,
    "data.validation": 8,
    "data.test": 24,
    "train.steps": 6,
    "train.chunk_steps": 2,
    "train.batch_size": 4,
    "train.group_size": 4,
    "evaluation.samples": 2,
    "validation.every": 2,
}
"""Fields of a run through the flow of about half a minute."""


def command(way: Way, folder: Path) -> list[str]:
    """Train into `folder`, chunk by chunk or through the flow; the same command goes on."""
    if way != "flow":
        return [sys.executable, str(CHUNKS_PROGRAM), str(folder), way]
    return flow_command(SMALL_FLOW | {"output-dir": folder, "backend.threads": 1})


def flow_command(fields: dict[str, object]) -> list[str]:
    """`python flows/train_flow.py` with a flag for each field, without W&B."""
    flags = [part for name, value in fields.items() for part in (f"--{name}", str(value))]
    return [sys.executable, str(FLOW_PROGRAM), *flags, "--no-logging.wandb"]


def run_dir(way: Way, folder: Path) -> Path:
    """Where that run leaves its files."""
    return folder / "runs" / (str(SMALL_FLOW["run.name"]) if way == "flow" else way)


def clean_environment() -> dict[str, str]:
    """This environment without what would point a run at another server."""
    dropped = ("TINKER_", "PREFECT_", "WANDB_")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
