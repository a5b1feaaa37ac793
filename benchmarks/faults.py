"""A run behind a fault-injecting proxy: are its weights those of a run without it, bit for bit?

    python benchmarks/faults.py                      # stalls of 30 s, a fifth of all requests
    python benchmarks/faults.py --stall 1 --seeds 3

The engine is the same process for all runs; each is compared with a run that talks to it directly:
weights, optimizer, metrics without times, rollouts, checkpoints.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fault_proxy import FaultProxy
from run_outcome import Outcome, outcome_of

from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.engine.launch import RunningEngine, start_engine
from visual_r1.models import TINY_GEOMETRY
from visual_r1.progress import Progress, Silent
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.folder import open_run_folder

SILENT = Silent()


KINDS: dict[str, dict[str, Any]] = {
    # A coin flip in the reward, so that every step updates.
    "second-pass": {
        "train": {"batch_size": 2, "group_size": 2, "skip_without_contrast": False},
        "prompt": {"template": "scan_think"},
        "second_pass": {"enabled": True},
        "sampling": {"max_new_tokens": 32},
        "reward": {"random": 1.0},
    },
    # Further draws until enough groups have contrast, by what was measured of the problems, and the
    # base model's log-probabilities.
    "dynamic-kl": {
        "train": {"batch_size": 2, "group_size": 4},
        "algorithm": {"dynamic_rounds": 2, "kl_coefficient": 0.05},
        "curriculum": {"rule": "contrast"},
        "sampling": {"max_new_tokens": 64},
    },
}
"""What a run may ask of a server, in small."""


def config_of(
    folder: Path, name: str, steps: int, chunk_steps: int, kind: str = "second-pass"
) -> RunConfig:
    """A run of small steps with what `kind`, one of `KINDS`, asks for."""
    chosen = KINDS[kind]
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "run": {"name": name},
            "backend": {"server": "remote", "recoveries_per_hour": 1000},
            "data": {"train": 8, "validation": 4, "test": 4},
            **chosen,
            "train": {"steps": steps, "chunk_steps": chunk_steps, **chosen["train"]},
        }
    )


def run(
    config: RunConfig,
    engine: RunningEngine,
    home: Path,
    url: str,
    progress: Progress = SILENT,
) -> Outcome:
    """Train at `url`, where `engine` is reached, and read what came of it from its `home`."""
    with (
        _environment(TINKER_BASE_URL=url, TINKER_API_KEY=engine.api_key, TINKER_TELEMETRY="0"),
        open_run_folder(config) as run_dir,
        open_backend(config) as backend,
    ):
        dataset = prepare(config.data, config.output_dir)
        row = None
        while row is None or row.step < config.train.steps:
            row = train_chunk(config, backend, dataset, run_dir, row, progress)
    return outcome_of(run_dir, home)


@contextmanager
def _environment(**values: str) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main() -> int:
    """Measure and print; 1 where a run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--stall", type=float, default=30.0, help="seconds")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--chunk-steps", type=int, default=2)
    chosen = parser.parse_args()
    print("| run | seed | ends | requests | faults | seconds |")
    print("| --- | ---: | --- | ---: | --- | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder, home = Path(temporary), Path(temporary) / "engine"
        with start_engine(home, TINY_GEOMETRY, 1, folder / "engine.log") as engine:
            same = [measure(kind, chosen, folder, engine, home) for kind in chosen.kinds]
    return 0 if all(same) else 1


def measure(
    kind: str, chosen: argparse.Namespace, folder: Path, engine: RunningEngine, home: Path
) -> bool:
    """A run without faults, then one a seed; prints a line each. Whether all ended the same."""

    def config(name: str) -> RunConfig:
        return config_of(folder, f"{kind}-{name}", chosen.steps, chosen.chunk_steps, kind)

    began = time.monotonic()
    reference = run(config("plain"), engine, home, engine.url)
    _say(kind, "", f"{len(reference.tensors)} tensors", "", "none", time.monotonic() - began)
    worst: set[str] = set()
    for seed in range(chosen.seeds):
        began = time.monotonic()
        with FaultProxy(engine.url, seed, chosen.share, chosen.stall) as proxy:
            found = run(config(f"seed-{seed}"), engine, home, proxy.url)
        differing = found.differing(reference)
        worst |= set(differing)
        verdict = f"differs in {', '.join(differing)}" if differing else "the same"
        each = ", ".join(f"{name} {n}" for name, n in sorted(proxy.faults.items()))
        faults = f"{proxy.faults.total()} ({each})"
        _say(kind, seed, verdict, proxy.requests, faults, time.monotonic() - began)
    return not worst


def _say(*cells: object) -> None:
    shown = [f"{cell:.0f}" if isinstance(cell, float) else str(cell) for cell in cells]
    print(f"| {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
