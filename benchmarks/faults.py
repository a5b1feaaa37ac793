"""A run behind a fault-injecting proxy: are its weights those of a run without it, bit for bit?

    python benchmarks/faults.py                      # stalls of 30 s, a fifth of all requests
    python benchmarks/faults.py --stall 1 --seeds 3

The engine is the same process for all runs; each is compared with a run that talks to it directly:
weights, optimizer, metrics without times, rollouts, checkpoints.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

# The folder `trials` stands beside this one.
sys.path.append(str(Path(__file__).parents[1]))

from trials.fault_proxy import FaultProxy
from trials.faulty_runs import KINDS, config_of, run
from visual_r1.config import RunConfig
from visual_r1.engine.launch import RunningEngine, start_engine
from visual_r1.models import TINY_GEOMETRY


def main() -> int:
    """Measure and print; 1 where a run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
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
