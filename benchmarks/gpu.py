"""One call on a card: what the engine does there, beside transformers, peft and the floors.

    python benchmarks/gpu.py                            # ten minutes at most
    python benchmarks/gpu.py --budget 300 --without-mixture
    python benchmarks/gpu.py --small                    # tries the script on a processor

A Qwen3-VL of the true shape of 2B with random weights (which cost what the real ones cost) answers
32 problems of Geometry3K's sizes 8 times, with 256 and with 768 tokens, and learns from the 256
answers; the engine is asked through the `tinker` SDK, as a run asks it. Then `generate` (with a
growing cache, with a static one and its step compiled, and batching continuously) and a plain peft
step do the same, a 30B-A3B is loaded, samples and trains, and single parts of our computation stand
beside what others keep for them (`beside.kernels`). What else is said: how far sampler and learner
are apart, whether the same is the same twice, memory, and floors by rates measured at the start
(`beside.floors`).

Parts run one after another and each is told how much time is left; what does not fit is left out,
and the table says so. The peers run in this environment (`--peers FOLDER` gives them their own).
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from beside.card import card
from beside.environments import HERE, PEERS, our_versions, outside
from beside.faults import BenchmarkError, run_command
from beside.floors import rates_of
from beside.kernels import Found
from beside.on_card import mixture, mixture_in_the_making, our_model
from beside.one_call import Run
from beside.results import Results, show
from beside.rounds import Told
from beside.sides import as_now, dumped
from beside.work import Cache, Lora, Work, prompts_of

Generated: TypeAlias = tuple[str, Lora | None, Cache, float]
"""Name, adapter, cache, and the seconds that must be left."""

GENERATED: Sequence[Generated] = (
    ("generate", None, "dynamic", 60),
    ("generate with peft's modules", Lora(), "dynamic", 60),
)
GENERATED_LAST: Sequence[Generated] = (
    ("generate_batch, images read as text", None, "continuous", 40),
    ("generate, static cache, compiled", None, "static", 60),
)
"""What takes long to get ready."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--budget", type=float, default=570.0, help="seconds of the whole call")
    parser.add_argument("--small", action="store_true", help="toy shapes, on a processor")
    parser.add_argument("--without-mixture", action="store_true", help="no 30B-A3B")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--without-kernels", action="store_true", help="no parts beside others'")
    parser.add_argument("--folder", type=Path, help="for the models' files; default: a new one")
    parser.add_argument("--peers", default=HERE, help=f"as elsewhere; default: {HERE}")
    parser.add_argument("--json", type=Path, help="default: a new file in .visual-r1/benchmarks/")
    chosen = parser.parse_args()
    results = Results("gpu", dumped(chosen), {"ours": our_versions()})
    if not chosen.small:
        results.facts["card"] = card()
    with ExitStack() as open_now:
        folder = chosen.folder or Path(open_now.enter_context(TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(chosen, folder, results)
        try:
            measure(run, chosen)
        finally:  # What was measured before a Ctrl-C counts.
            show(
                f"One call on {results.facts.get('card', 'a processor, toy shapes')}",
                ("what", "seconds", "figure", "times the floor"),
                run.rows,
                f"{results.write(chosen.json)} has it all.",
            )
    return 0


def measure(run: Run, chosen: argparse.Namespace) -> None:
    """All parts, in the order of what they tell."""
    run.rates = rates_of(run.device, 1, as_now())
    moved, flops = run.rates.bytes_per_s / 1e12, run.rates.flops_per_s / 1e12
    run.tell("rates", None, f"{moved:.3f} TB/s copied, {flops:.2f} TFLOP/s multiplied", None)
    dense = run.folder / run.sizes.dense
    answers: list[Any] = []
    run.part("2B", 90, lambda: answers.extend(our_model(run, dense, run.sizes.dense)))
    with ExitStack() as open_now:
        if not chosen.without_mixture:
            # While the peers are measured, which it does not disturb: one core, and memory.
            ready = open_now.enter_context(mixture_in_the_making(run))
        if answers and not chosen.without_peers:
            generated(run, dense, GENERATED)
            run.part("peft", 40, lambda: peft(run, dense, answers))
        if not chosen.without_mixture:
            run.part("30B-A3B", 60, lambda: mixture(run, *ready()))
    if answers and not chosen.without_peers:
        generated(run, dense, GENERATED_LAST)
    if not chosen.without_kernels:
        run.part("kernels", 30, lambda: kernels(run))


# -- peers -----------------------------------------------------------------------------------------


def generated(run: Run, folder: Path, all_of_them: Sequence[Generated]) -> None:
    """transformers' sampling, in one way after the other."""
    for name, lora, cache, needs in all_of_them:
        run.part(name, needs, partial(generate, run, folder, name, lora, cache))


def generate(run: Run, folder: Path, name: str, lora: Lora | None, cache: Cache) -> None:
    """transformers' generate from the base, or through an adapter's modules."""
    sizes = run.sizes
    prompts = prompts_of(str(folder), sizes.prompts, "geometry3k")
    work = Work(
        str(folder), prompts, sizes.group, sizes.tokens[0], lora, device=run.device, cache=cache
    )
    peer(run, name, "hf_generate.py", work, "tokens")


def peft(run: Run, folder: Path, answers: Sequence[Any]) -> None:
    """A plain peft step on the same answers."""
    sizes = run.sizes
    prompts = prompts_of(str(folder), sizes.prompts, "geometry3k")
    learnt = tuple(tuple(map(tuple, group)) for group in answers)
    work = Work(
        str(folder), prompts, sizes.group, 0, Lora(), learnt, run.device,
        micro_batch=sizes.micro_batch, checkpointing=True,
    )  # fmt: skip
    peer(run, "peft, forward, backward, step", "peft_step.py", work, "sequences")


def peer(run: Run, name: str, program: str, work: Work, unit: str) -> None:
    """One round of a peer's program, after what it does to get ready."""
    file = str(work.write(run.folder / "work.json"))
    command = [run.python, str(PEERS / program), file]
    log = run.folder / f"{program}.log"
    until = time.monotonic() + run.left_s
    with Told(name, command, outside(), log, until) as told:
        told.facts()
        if work.cache != "dynamic":
            told.round(0)  # It compiles and records.
        done = told.round(1)
    peak = done.counted.get("peak_gib")
    held = f", {peak:.1f} GiB" if peak else ""
    run.tell(name, done.seconds, f"{done.counted[unit] / done.seconds:,.1f} {unit}/s{held}", None)


# -- single parts ----------------------------------------------------------------------------------


def kernels(run: Run) -> None:
    """Lines of `beside.kernels` as they come, in a process of its own."""
    command = [sys.executable, "-m", "beside.kernels", run.device]
    command += ["--small"] if run.device == "cpu" else []
    with (
        (run.folder / "kernels.log").open("wb") as log,
        subprocess.Popen(
            command, env=as_now(), stdout=subprocess.PIPE, stderr=log, text=True,
            cwd=Path(__file__).parent,
        ) as program,
    ):  # fmt: skip
        late = threading.Timer(run.left_s, program.kill)
        late.start()
        try:
            assert program.stdout is not None
            for line in program.stdout:
                found = Found(**json.loads(line))
                said = f"not tried: {found.why_not}"
                if found.seconds is not None:
                    held = f", {found.peak_gib:.2f} GiB" if found.peak_gib is not None else ""
                    said = f"{1e3 * found.seconds:.3f} ms{held}, {found.apart:.1e} apart"
                run.tell(f"{found.work}: {found.name}", found.seconds, said, None)
        finally:
            late.cancel()
    if program.returncode:
        raise BenchmarkError(
            f"the parts beside others' ended early: no time was left, or {log.name} has the reason"
        )


if __name__ == "__main__":
    run_command(main)
