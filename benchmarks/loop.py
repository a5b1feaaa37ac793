"""How long a step of the loop takes, beside tinker-cookbook's `rl_loop` on the same engine.

    python benchmarks/loop.py                           # without latencies, and with modelled ones
    python benchmarks/loop.py --with algorithm.max_staleness=1 --with pipeline.parts=4
    python benchmarks/loop.py --latencies 4 --batch 64 --group 16

One engine serves both, in a process of its own; whole runs take turns, and what is measured lies
between the rows of two steps. Ours is `python flows/train_flow.py`, the peer the recipe's own
`main` in an environment of its own, with the same problems, sizes and loss. Both leave groups
without contrast out of the training.

A local engine has no latencies. With `--latencies S` a proxy between them and it holds each answer
back until a modelled time is over, log-normal with that median in seconds: then a loop that trains,
grades or samples while it waits gains, and one that waits for the slowest does not. `--with`
measures ours with other settings as well.
"""

import argparse
import json
import re
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from beside.environments import (
    COOKBOOK,
    PEERS,
    add_peers_flag,
    asked_and_got,
    our_versions,
    outside,
    python_of,
)
from beside.faults import count, run_command
from beside.flow import (
    Variant,
    add_variants_flag,
    clean_environment,
    flow_command,
    rows_file,
    steps_alone,
    variants_of,
)
from beside.latency import Held, LogNormal
from beside.ours import Engine
from beside.results import Measured, Ratio, Results, Spread, show
from beside.rounds import Round
from beside.serving import serving
from beside.sides import dumped
from beside.watched import watched_run
from beside.work import Lora, prompts_of
from visual_r1.models import TINY_GEOMETRY, model_path
from visual_r1.rl.learning import REMOTE_PARTS

LEARNING_RATE = 1e-3
RL_LOOP = "rl_loop"


def main() -> int:
    chosen = parsed()
    variants = variants_of(chosen.variants, [["algorithm.max_staleness=1"]])
    python = python_of(COOKBOOK, chosen.peers)
    versions = {"ours": our_versions(), RL_LOOP: asked_and_got(COOKBOOK, python)}
    results = Results("loop", dumped(chosen), versions)
    rows: list[list[str]] = []
    for median in chosen.latencies:
        taken = measured(chosen, python, variants, LogNormal(median, chosen.spread))
        case = f"latencies of {median:g} s" if median else "no latencies"
        sides = {who: Measured.of(case, who, "steps", runs) for who, runs in taken.items()}
        results.measured += sides.values()
        for who, side in sides.items():
            times = Ratio.of(side, sides[RL_LOOP]) if who != RL_LOOP else None
            if times:
                results.ratios[f"{case}: {who} / {RL_LOOP}"] = times
            busy = [one.seconds / one.counted["engine_busy"] for one in side.rounds]
            results.facts[f"{case}: {who}, wall over engine-busy"] = Spread.of(busy)
            rows.append(row(case, side, times, Spread.of(busy)))
    show(
        f"A step of {chosen.batch} x {chosen.group} x {chosen.tokens} on one engine; n = "
        f"{chosen.rounds} runs of {chosen.steps} steps: median (all)",
        ("", "who", "s a step", "times the peer", "by CPU", "CPU s a step", "wall / busy", "load"),
        rows,
        f"{results.write(chosen.json)} has every step.",
    )
    return 0


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=count, default=16, help="problems a step")
    parser.add_argument("--group", type=count, default=8, help="answers to each")
    parser.add_argument("--tokens", type=count, default=96, help="longest answer")
    parser.add_argument("--steps", type=count, default=10, help="of a run")
    parser.add_argument("--warm", type=count, default=2, help="of them left out")
    parser.add_argument("--rounds", type=count, default=3, help="runs of each")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument(
        "--latencies", type=float, nargs="+", default=[0.0, 2.0], metavar="S",
        help="medians of the modelled sampling seconds; 0: none",
    )  # fmt: skip
    parser.add_argument("--spread", type=float, default=0.6, help="of their logarithm")
    parser.add_argument("--json", type=Path, help="default: a new file in .visual-r1/benchmarks/")
    add_variants_flag(parser)
    add_peers_flag(parser)
    return parser.parse_args()


def measured(
    chosen: argparse.Namespace,
    python: str,
    variants: Sequence[Variant],
    times: LogNormal,
) -> dict[str, list[Round]]:
    """Runs in turn, by who made them."""
    taken: dict[str, list[Round]] = {name: [] for name, _ in variants} | {RL_LOOP: []}
    with ExitStack() as open_now:
        folder = Path(open_now.enter_context(TemporaryDirectory()))
        log = open_now.enter_context((folder / "engine.log").open("wb"))
        engine = open_now.enter_context(
            Engine(TINY_GEOMETRY, "cpu", chosen.threads, folder / "home", log)
        )
        held = Held(engine.url, times)
        url = open_now.enter_context(serving(held.app)) if times.median_s else engine.url
        for number in range(chosen.rounds):
            turns = [*variants, (RL_LOOP, {})]
            for who, fields in turns if number % 2 == 0 else turns[::-1]:
                place = folder / f"{re.sub('[^a-z0-9_.=]+', '-', who)}-{number}"
                place.mkdir()
                held.start_anew()
                run = cookbook_run if who == RL_LOOP else our_run
                taken[who].append(run(chosen, place, engine, url, python, fields))
    return taken


def our_run(
    chosen: argparse.Namespace,
    place: Path,
    engine: Engine,
    url: str,
    _: str,
    more: dict[str, Any],
) -> Round:
    """One run of the flow."""
    # What is held back is another's server to a run, which the engine behind it says it is not.
    elsewhere = {} if url == engine.url else {"pipeline.parts": REMOTE_PARTS}
    fields: dict[str, Any] = {
        **steps_alone("loop", chosen),
        **elsewhere,
        "train.learning_rate": LEARNING_RATE,
        "backend.server": "remote",
        "backend.base_url": url,
        **more,
    }
    environment = clean_environment({"TINKER_API_KEY": engine.key})
    return watched_run(
        flow_command(place, fields), environment, rows_file(place, "loop"),
        chosen.steps, chosen.warm, place.with_suffix(".log"), engine.process.pid,
    )  # fmt: skip


def cookbook_run(
    chosen: argparse.Namespace,
    place: Path,
    engine: Engine,
    url: str,
    python: str,
    _: dict[str, Any],
) -> Round:
    """One run of the recipe."""
    ends = json.loads((Path(model_path(TINY_GEOMETRY)) / "generation_config.json").read_text())
    prompts = prompts_of(TINY_GEOMETRY, chosen.batch * chosen.steps)
    work = {
        "url": url,
        "model": TINY_GEOMETRY,
        "folder": model_path(TINY_GEOMETRY),
        "prompts": [asdict(prompt) for prompt in prompts],
        "batch": chosen.batch,
        "group": chosen.group,
        "new_tokens": chosen.tokens,
        "steps": chosen.steps,
        "rank": Lora().rank,
        "learning_rate": LEARNING_RATE,
        "stops": ends["eos_token_id"],
        "log": str(place / "log"),
    }
    file = place / "work.json"
    file.write_text(json.dumps(work))
    command = [python, str(PEERS / "cookbook_loop.py"), str(file)]
    return watched_run(
        command, outside({"TINKER_API_KEY": engine.key}), place / "log" / "metrics.jsonl",
        chosen.steps, chosen.warm, place.with_suffix(".log"), engine.process.pid,
    )  # fmt: skip


def row(case: str, side: Measured, times: Ratio | None, busy: Spread) -> list[str]:
    """A line of the table; per step."""
    steps = side.rounds[0].counted["steps"]
    used = statistics.median(one.cpu_seconds / steps for one in side.rounds)
    return [
        case,
        side.who,
        Spread.of([one.seconds / steps for one in side.rounds]).text(".3f"),
        times.clock.text(".2f") if times else "",
        times.cpu.text(".2f") if times else "",
        f"{used:.3f}",
        busy.text(".3f"),
        f"{side.load.median:.1f}",
    ]


if __name__ == "__main__":
    run_command(main)
