"""Power cuts at random moments of a night of runs: does it end as a night without one?

    nice python benchmarks/power_cuts.py              # ten cuts in a night's sweep
    nice python benchmarks/power_cuts.py --night runs --cuts 2 --runs 2

A night is one sweep, or several runs, of a deployment with the tag `restart`. The runs are small
and differ in their learning rate; those that are no sweep share an engine's home, so that one
trains and the others wait. A cut kills server, worker, watch, flows and engines with SIGKILL, all
at once, at a uniform moment after the last start. Then server, worker and watch are started again,
as `make up` does, and nothing else is done. Two minutes after the server answers, whatever is said
to be Running must have a process that has begun it. At the end all must be Completed, each run
with the weights, ledger and figures of one that nobody disturbed, and a sweep's table must be the
same to the byte.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The folder `trials` stands beside this one.
sys.path.append(str(Path(__file__).parents[1]))

import httpx

from trials.operated import FINAL, Operated
from trials.programs import SMALL_FLOW
from trials.run_outcome import outcome_of

GHOSTS_END_WITHIN_S = 120.0


@dataclass(frozen=True)
class Night:
    """What is operated in which folder, its flow runs by name, and whether it is one sweep."""

    operated: Operated
    folder: Path
    flow_runs: dict[str, str]
    is_sweep: bool

    def is_over(self) -> bool:
        """Whether no flow run is to be done any more, or is just being done."""
        try:
            states = [self.operated.state(one) for one in self.flow_runs.values()]
        except httpx.HTTPError:  # a busy machine's server may take its time
            return False
        return all(
            # Between its crash and its new start it is Crashed for a moment.
            one["type"] in FINAL
            and (one["type"] != "CRASHED" or "is not started again" in (one["message"] or ""))
            for one in states
        )

    def runs(self) -> list[Path]:
        """The folders of the runs."""
        return sorted(path for path in (self.folder / "runs").iterdir() if path.is_dir())


def begin(folder: Path, runs: int, *, is_sweep: bool) -> Night:
    """Start the three, and the runs."""
    folder.mkdir()
    operated = Operated(folder, folder / "prefect")
    operated.start()
    flow = "flows/sweep_flow.py:sweep" if is_sweep else "flows/train_flow.py:train"
    deployment = operated.deploy(flow, "night")
    fields = SMALL_FLOW | {
        "logging.wandb": False,
        "backend.threads": 1,
        "output_dir": str(folder),
    }
    rates = [0.0005 * (number + 1) for number in range(runs)]
    if is_sweep:
        del fields["run.name"]
        tried = {"name": "night", "grid": {"train.learning_rate": rates}}
        sweep = operated.run(deployment, sweep=tried, preset="quickstart", overrides=fields)
        return Night(operated, folder, {"sweep": sweep}, is_sweep)
    flow_runs: dict[str, str] = {}
    for number, rate in enumerate(rates):
        name = f"run-{number}"
        own = {"run.name": name, "train.learning_rate": rate}
        flow_runs[name] = operated.run(deployment, preset="quickstart", overrides=fields | own)
    return Night(operated, folder, flow_runs, is_sweep)


def cut(night: Night, random_: random.Random, longest_s: float) -> dict[str, Any] | None:
    """One cut and what came after it; None where the night was over before it."""
    wait_s = random_.uniform(2.0, longest_s)
    began = time.monotonic()
    while time.monotonic() - began < wait_s:
        if night.is_over():
            return None
        time.sleep(0.5)
    states = [night.operated.state(one)["name"] for one in night.flow_runs.values()]
    night.operated.cut_power()
    began = time.monotonic()
    night.operated.start()
    answered = time.monotonic()
    seen = None
    with suppress(AssertionError, httpx.HTTPError):
        seen = night.operated.until(
            lambda: not night.operated.ghosts(), "no ghost is left", GHOSTS_END_WITHIN_S
        )
    return {
        "after_s": round(wait_s, 1),
        "were": states,
        "server_s": round(answered - began, 1),
        "ghosts_gone_s": None if seen is None else round(seen, 1),
    }


def table(night: Night) -> dict[str, Any]:
    """The figures of each run; of a sweep also its own files, but for times of day."""
    found: dict[str, Any] = {}
    for run_dir in night.runs():
        summary = json.loads((run_dir / "summary.json").read_text())
        found[run_dir.name] = {key: summary[key] for key in ("baseline", "final", "delta", "steps")}
    if night.is_sweep:
        for name in ("table.md", "comparison.svg"):
            found[name] = (night.folder / "sweeps" / "night" / name).read_text()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both nights and compare; 0 where the cuts changed nothing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--longest", type=float, default=60, help="seconds until a cut, at most")
    parser.add_argument("--night", choices=("sweep", "runs"), default="sweep")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    random_ = random.Random(chosen.seed)
    is_sweep = chosen.night == "sweep"
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        quiet = begin(Path(temporary) / "quiet", chosen.runs, is_sweep=is_sweep)
        with quiet.operated:
            quiet.operated.until(quiet.is_over, "the quiet night is over", 3600)
        disturbed = begin(Path(temporary) / "disturbed", chosen.runs, is_sweep=is_sweep)
        with disturbed.operated:
            for number in range(chosen.cuts):
                found = cut(disturbed, random_, chosen.longest)
                if found is None:
                    print(f"the night was over before cut {number + 1}", flush=True)
                    break
                print(json.dumps({"cut": number + 1, **found}), flush=True)
                if found["ghosts_gone_s"] is None:
                    faults.append(f"after cut {number + 1} there were ghosts for two minutes")
            began = time.monotonic()
            disturbed.operated.until(disturbed.is_over, "the night is over", 3600)
            print(f"the night went on for {time.monotonic() - began:.0f} s, without help")
            for name, flow_run in disturbed.flow_runs.items():
                state = disturbed.operated.state(flow_run)
                if state["type"] != "COMPLETED":
                    faults.append(f"{name} is {state['name']}: {state['message']}")
            if left := disturbed.operated.open_runs():
                faults.append(f"still said to be at work: {', '.join(left)}")
        homes = [night.folder / ".visual-r1" / "engine" for night in (quiet, disturbed)]
        for runs in zip(quiet.runs(), disturbed.runs(), strict=True):
            then, now = (outcome_of(run, home) for run, home in zip(runs, homes, strict=True))
            faults += [f"{runs[0].name}: {part} differs" for part in now.differing(then)]
        for name, content in table(disturbed).items():
            print(f"{name}: {content}" if not name.endswith(".svg") else f"{name} as well")
        if table(disturbed) != table(quiet):
            faults.append(f"the table of the quiet night was {table(quiet)}")
    for fault in faults:
        print(f"FAULT: {fault}")
    print("as a night without cuts" if not faults else f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
