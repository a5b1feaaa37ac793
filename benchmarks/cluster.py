"""What our process costs beside a large server, and what streaming and staleness gain there.

    python benchmarks/cluster.py                        # 1,024 problems x 16, three steps
    python benchmarks/cluster.py --with algorithm.max_staleness=1
    python benchmarks/cluster.py --batch 64 --group 8   # a small trial

The run is `python flows/train_flow.py`; the server is modelled (`beside.modelled`): it speaks the
protocol and takes the time of a cluster, with a queue, answers of log-normal length, a limit on
requests a second and a learner of so many tokens a second, and computes nothing. So what is
measured is ours: the memory and processor time of the run's process for thousands of samples a
step, and how much of a step the server is idle. The floor of a step is the longer of two times: of
the sampler's work at full rows, and of the learner's.

Where the code has the settings, it is run with the step's batch sent in one part (`pipeline.parts`)
and with `algorithm.max_staleness` 1 and 2 as well; `--with` chooses others.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from beside.environments import our_versions
from beside.faults import BenchmarkError, count, run_command
from beside.flow import (
    add_variants_flag,
    clean_environment,
    flow_command,
    rows_file,
    steps_alone,
    variants_of,
)
from beside.modelled import Cluster
from beside.results import Measured, Results, Spread, show
from beside.rounds import Round
from beside.sides import as_now, dumped
from beside.watched import watched_run

KEY = "tml-modelled"


def main() -> int:
    chosen = parsed()
    cluster = Cluster(
        **{one.name: type(one.default)(getattr(chosen, one.name)) for one in fields(Cluster)}  # type: ignore[call-overload]
    )
    variants = variants_of(
        chosen.variants,
        [["pipeline.parts=1"], ["algorithm.max_staleness=1"], ["algorithm.max_staleness=2"]],
    )
    results = Results("cluster", dumped(chosen), {"ours": our_versions()})
    results.facts["cluster"] = cluster
    taken: dict[str, list[Round]] = {name: [] for name, _ in variants}
    for number in range(chosen.rounds):
        for name, more in variants if number % 2 == 0 else variants[::-1]:
            taken[name].append(one_run(chosen, cluster, more))
    rows: list[list[str]] = []
    for name, runs in taken.items():
        results.measured.append(Measured.of("cluster", name, "steps", runs))
        rows.append(row(name, runs, cluster))
    show(
        f"A step of {chosen.batch} x {chosen.group} at a modelled server; n = {chosen.rounds} runs "
        f"of {chosen.steps} steps: median (all)",
        (
            "", "s a step", "times the floor", "our CPU s a step", "our peak MB",
            "learner busy", "refused (429)", "load",
        ),
        rows,
        f"{results.write(chosen.json)} has every step.",
    )  # fmt: skip
    return 0


def parsed() -> argparse.Namespace:
    """The flags; each figure of the modelled cluster is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=count, default=1024, help="problems a step")
    parser.add_argument("--group", type=count, default=16, help="answers to each")
    parser.add_argument("--tokens", type=count, default=768, help="longest answer")
    parser.add_argument("--steps", type=count, default=4, help="of a run")
    parser.add_argument("--warm", type=count, default=1, help="of them left out")
    parser.add_argument("--rounds", type=count, default=1)
    add_variants_flag(parser)
    parser.add_argument("--json", type=Path, help="default: a new file in .visual-r1/benchmarks/")
    for one in fields(Cluster):
        flag = f"--{one.name.replace('_', '-')}"
        parser.add_argument(flag, type=float, default=one.default, help="of the modelled server")
    return parser.parse_args()


def one_run(chosen: argparse.Namespace, cluster: Cluster, more: dict[str, Any]) -> Round:
    """One run of the flow against a fresh server; what the server did is counted with it."""
    with TemporaryDirectory() as folder, modelled(cluster, Path(folder)) as url:
        place = Path(folder) / "run"
        wanted: dict[str, Any] = {
            **steps_alone("cluster", chosen),
            # Half of every group does better than the rest, so that all samples are trained on.
            "no-train.skip_without_contrast": True,
            "reward.random": 1,
            "backend.server": "remote",
            "backend.base_url": url,
            **more,
        }
        log = Path(folder) / "run.log"
        environment = clean_environment({"TINKER_API_KEY": KEY})
        command = flow_command(place, wanted)
        rows = rows_file(place, "cluster")
        done = watched_run(command, environment, rows, chosen.steps, chosen.warm, log)
        worked = httpx.get(f"{url}/api/v1/worked", timeout=60).json()
        waits = sorted(worked.pop("waited_s"))
        worked["waited_s"] = asdict(Spread.of(waits))
        done.counted["server"] = worked
        return done


@contextmanager
def modelled(cluster: Cluster, folder: Path) -> Generator[str]:
    """The server in a process of its own; its address."""
    settings = folder / "cluster.json"
    settings.write_text(json.dumps(asdict(cluster)))
    process = subprocess.Popen(
        [sys.executable, "-m", "beside.modelled", str(settings)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent, env=as_now(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("ready "):
            raise BenchmarkError("the modelled server did not start: its traceback is above.")
        yield line.split()[1]
    finally:
        process.kill()
        process.wait()


def row(name: str, runs: list[Round], cluster: Cluster) -> list[str]:
    """A line of the table; per step."""
    steps, every = runs[0].counted["steps"], len(runs[0].counted["rows"])
    seconds = [one.seconds / steps for one in runs]
    # Of all steps, the first ones too: they are alike.
    sampling = [one.counted["server"]["sampler_row_s"] / cluster.rows / every for one in runs]
    learning = [one.counted["server"]["learner_s"] / every for one in runs]
    floors = [max(pair) for pair in zip(sampling, learning, strict=True)]
    shares = [one / whole for one, whole in zip(learning, seconds, strict=True)]
    times = [one / floor for one, floor in zip(seconds, floors, strict=True)]
    return [
        name,
        Spread.of(seconds).text(".2f"),
        Spread.of(times).text(".2f"),
        Spread.of([one.counted["own_cpu_seconds"] / steps for one in runs]).text(".2f"),
        Spread.of([one.counted["peak_bytes"] / 1e6 for one in runs]).text(".0f"),
        Spread.of([100 * one for one in shares]).text(".0f") + " %",
        Spread.of([one.counted["server"]["refused"] for one in runs]).text(".0f"),
        f"{Spread.of([one.load for one in runs]).median:.1f}",
    ]


if __name__ == "__main__":
    run_command(main)
