"""How long a GRPO step takes, beside TRL's on the same model, problems and sizes.

    python benchmarks/step.py                           # 16 problems x 8, three runs of each
    python benchmarks/step.py --batch 64 --group 16 --rounds 2

Ours is `python flows/train_flow.py`, with all that a step of it does (sampling, grading, the rows
and Parquet files of a run, its records at Prefect); the peer is TRL's GRPOTrainer in an environment
of its own. Whole runs take turns, and what is measured lies between the rows of two steps: the
start, the first steps and the end of a run are left out. Answers end where the model ends them, so
their mean length stands beside.

It also says how much longer a step of ours takes than its engine is busy: that is what the loop
around the engine costs. (The busiest thread of the engine is the one that computes. On a machine
with other work the clock counts that too, and the figure means nothing.)
"""

import argparse
import base64
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from beside.environments import (
    PEERS,
    TRL,
    add_peers_flag,
    asked_and_got,
    our_versions,
    outside,
    python_of,
)
from beside.faults import count, run_command
from beside.flow import clean_environment, flow_command, rows_file, steps_alone
from beside.results import Measured, Ratio, Results, Spread, show
from beside.rounds import Round
from beside.sides import dumped
from beside.watched import watched_run
from beside.work import MAX_PIXELS, TEMPLATE, Lora
from visual_r1.data.procedural import generate
from visual_r1.models import TINY_GEOMETRY, model_path
from visual_r1.models.processor import load_processor
from visual_r1.prompts.prompts import Prompter

LEARNING_RATE = 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=count, default=16, help="problems a step")
    parser.add_argument("--group", type=count, default=8, help="answers to each")
    parser.add_argument("--tokens", type=count, default=96, help="longest answer")
    parser.add_argument("--steps", type=count, default=10, help="of a run")
    parser.add_argument("--warm", type=count, default=2, help="of them left out")
    parser.add_argument("--rounds", type=count, default=3, help="runs of each")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--without-peer", action="store_true", help="ours alone")
    parser.add_argument("--json", type=Path, help="default: a new file in .visual-r1/benchmarks/")
    add_peers_flag(parser)
    chosen = parser.parse_args()
    versions = {"ours": our_versions()}
    python = ""
    if not chosen.without_peer:
        python = python_of(TRL, chosen.peers)
        versions["trl"] = asked_and_got(TRL, python)
    results = Results("step", dumped(chosen), versions)
    taken: dict[str, list[Round]] = {"ours": [], "trl": []}
    with TemporaryDirectory() as folder:
        for number in range(chosen.rounds):
            turns = [("ours", our_run), ("trl", trl_run)]
            for who, run in turns if number % 2 == 0 else turns[::-1]:
                if who == "ours" or python:
                    place = Path(folder) / f"{who}-{number}"
                    place.mkdir()
                    taken[who].append(run(chosen, place, python))
    sides = [Measured.of("step", who, "steps", runs) for who, runs in taken.items() if runs]
    results.measured += sides
    times = Ratio.of(*sides) if len(sides) == 2 else None
    if times:
        results.ratios["step: ours / trl"] = times
    busy = [one.seconds / one.counted["engine_busy"] for one in taken["ours"]]
    results.facts["wall_over_engine_busy"] = Spread.of(busy)
    show(
        f"A GRPO step, {chosen.batch} x {chosen.group} x {chosen.tokens}; "
        f"threads {chosen.threads}, n = {chosen.rounds} runs of {chosen.steps} steps",
        ("who", "s a step", "times the peer", "by CPU", "CPU s a step", "tokens an answer", "load"),
        [row(one, times if one.who == "ours" else None) for one in sides],
        f"Wall over engine-busy: {Spread.of(busy).text('.3f')}. "
        f"{results.write(chosen.json)} has every step.",
    )
    return 0


def row(side: Measured, times: Ratio | None) -> list[str]:
    """A line of the table; per step."""
    steps = side.rounds[0].counted["steps"]
    lengths = [one["response_tokens_mean"] for done in side.rounds for one in done.counted["rows"]]
    return [
        side.who,
        Spread.of([one.seconds / steps for one in side.rounds]).text(".3f"),
        times.clock.text(".2f") if times else "",
        times.cpu.text(".2f") if times else "",
        Spread.of([one.cpu_seconds / steps for one in side.rounds]).text(".3f"),
        f"{statistics.mean(lengths):.1f}",
        f"{side.load.median:.1f}",
    ]


def our_run(chosen: argparse.Namespace, place: Path, _: str) -> Round:
    """One run of the flow."""
    fields: dict[str, Any] = {
        **steps_alone("step", chosen),
        "train.learning_rate": LEARNING_RATE,
        "no-train.skip_without_contrast": True,  # TRL learns from all of them
        "backend.threads": chosen.threads,
    }
    command = flow_command(place, fields)
    rows = rows_file(place, "step")
    log = place.with_suffix(".log")
    return watched_run(command, clean_environment(), rows, chosen.steps, chosen.warm, log)


def trl_run(chosen: argparse.Namespace, place: Path, python: str) -> Round:
    """One run of TRL's trainer."""
    prompter = Prompter(load_processor(TINY_GEOMETRY), TEMPLATE, MAX_PIXELS)
    problems = list(generate(0, "train", chosen.batch * chosen.steps))
    lora = Lora()
    work = {
        "folder": model_path(TINY_GEOMETRY),
        "problems": [
            {
                "text": prompter.template.render(
                    "user", {"problem": one.question, "question": one.question, "scan": ""}
                ),
                "image": base64.b64encode(one.images[0]).decode(),
                "answer": one.answer,
            }
            for one in problems
        ],
        "batch": chosen.batch,
        "group": chosen.group,
        "new_tokens": chosen.tokens,
        "steps": chosen.steps,
        "threads": chosen.threads,
        "learning_rate": LEARNING_RATE,
        "lora": {"rank": lora.rank, "alpha": lora.alpha, "modules": list(lora.modules)},
        "rows": str(place / "rows.jsonl"),
        "output": str(place / "output"),
    }
    file = place / "work.json"
    file.write_text(json.dumps(work))
    command = [python, str(PEERS / "trl_steps.py"), str(file)]
    rows = Path(work["rows"])
    log = place.with_suffix(".log")
    return watched_run(command, outside(), rows, chosen.steps, chosen.warm, log)


if __name__ == "__main__":
    run_command(main)
