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

from fault_proxy import FaultProxy
from run_outcome import Outcome, outcome_of

from visual_r1.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.engine.launch import RunningEngine, start_engine
from visual_r1.models import TINY_GEOMETRY
from visual_r1.progress import Progress, Silent
from visual_r1.rl.chunk import train_chunk
from visual_r1.run_folder import open_run_folder

SILENT = Silent()


def config_of(folder: Path, name: str, steps: int, chunk_steps: int) -> RunConfig:
    """Small steps with second passes; a coin flip in the reward, so that every step updates."""
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "run": {"name": name},
            "backend": {"server": "remote", "recoveries_per_hour": 1000},
            "data": {"train": 8, "validation": 4, "test": 4},
            "train": {
                "steps": steps,
                "chunk_steps": chunk_steps,
                "batch_size": 2,
                "group_size": 2,
                "skip_without_contrast": False,
            },
            "prompt": {"template": "scan_think"},
            "second_pass": {"enabled": True},
            "sampling": {"max_new_tokens": 32},
            "reward": {"random": 1.0},
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
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--stall", type=float, default=30.0, help="seconds")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--chunk-steps", type=int, default=2)
    chosen = parser.parse_args()
    worst = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder, home = Path(temporary), Path(temporary) / "engine"
        with start_engine(home, TINY_GEOMETRY, 1, folder / "engine.log") as engine:
            plain = config_of(folder, "plain", chosen.steps, chosen.chunk_steps)
            began = time.monotonic()
            reference = run(plain, engine, home, engine.url)
            took = time.monotonic() - began
            print(f"without: {len(reference.tensors)} tensors, {took:.0f} s", flush=True)
            for seed in range(chosen.seeds):
                config = config_of(folder, f"seed-{seed}", chosen.steps, chosen.chunk_steps)
                began = time.monotonic()
                with FaultProxy(engine.url, seed, chosen.share, chosen.stall) as proxy:
                    found = run(config, engine, home, proxy.url)
                took = time.monotonic() - began
                differing = found.differing(reference)
                worst |= bool(differing)
                faults = ", ".join(f"{name} {n}" for name, n in sorted(proxy.faults.items()))
                verdict = f"differs in {', '.join(differing)}" if differing else "the same"
                print(
                    f"seed {seed}: {verdict}; "
                    f"{proxy.requests} requests, {proxy.faults.total()} faults ({faults}), "
                    f"{took:.0f} s",
                    flush=True,
                )
    return worst


if __name__ == "__main__":
    sys.exit(main())
