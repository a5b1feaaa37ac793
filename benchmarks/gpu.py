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
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import tinker

from beside.card import Memory, card
from beside.environments import HERE, PEERS, TRANSFORMERS, our_versions, outside, python_of
from beside.faults import BenchmarkError, run_command
from beside.floors import (
    Costs,
    Rates,
    costs_of,
    decode_step_floor,
    prefill_floor,
    rates_of,
    sampling_floor,
    training_floor,
)
from beside.kernels import Found
from beside.ours import Engine, datum, sampled, training_client
from beside.results import Results, show
from beside.rounds import Told
from beside.shapes import SHAPES, bytes_of
from beside.sides import as_now, dumped
from beside.work import Cache, Lora, Work, model_inputs, prompts_of

EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
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


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    dense: str
    mixture: str
    prompts: int
    group: int
    tokens: tuple[int, int]
    mixture_prompts: int
    micro_batch: int


CARD = Sizes("2b", "30b-a3b", 32, 8, (256, 768), 16, 16)
SMALL = Sizes("toy", "toy-a3b", 4, 2, (12, 24), 2, 4)


class Run:
    """The rows of the table, the results, and what is left of the time."""

    def __init__(self, chosen: argparse.Namespace, folder: Path, results: Results) -> None:
        self.device: str = "cpu" if chosen.small else "cuda"
        self.sizes = SMALL if chosen.small else CARD
        self.folder, self.results = folder, results
        self.until = time.monotonic() + chosen.budget
        self.json: Path | None = chosen.json
        self.rows: list[list[str]] = []
        self.rates = Rates(1.0, 1.0)
        self.python = python_of(TRANSFORMERS, chosen.peers)

    @property
    def left_s(self) -> float:
        """Of the time, but for what the table takes."""
        return max(1.0, self.until - time.monotonic() - 5.0)

    def tell(self, what: str, seconds: float | None, figure: str, floor_s: float | None) -> None:
        """A row of the table."""
        times = f"{seconds / floor_s:.1f}" if seconds is not None and floor_s else ""
        self.rows.append([what, f"{seconds:.2f}" if seconds is not None else "", figure, times])
        self.results.facts[what] = {"seconds": seconds, "figure": figure, "floor_s": floor_s}
        if self.json is not None:  # Whatever ends the call, this much is there.
            self.results.write(self.json)
        print(f"{what}: {'' if seconds is None else f'{seconds:.2f} s, '}{figure}", flush=True)

    def part(self, name: str, needs_s: float, work: Callable[[], None]) -> None:
        """Run a part, where there is time for it; one that fails is a row, and no more."""
        if self.left_s < needs_s and self.device == "cuda":
            self.tell(name, None, f"left out: {self.left_s:.0f} s were left", None)
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a card is lent for minutes: the others go on
            self.tell(name, None, f"failed: {type(error).__name__}: {str(error)[:300]}", None)


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


# -- ours ------------------------------------------------------------------------------------------


def our_model(run: Run, folder: Path, shape: str) -> list[Any]:
    """The 2B through the engine; the answers that were learnt from."""
    make(run, folder, shape, None)
    sizes = run.sizes
    prompts = prompts_of(str(folder), sizes.prompts, "geometry3k")
    work = Work(str(folder), prompts, sizes.group, sizes.tokens[0], Lora(), device=run.device)
    costs = costs_of(str(folder), 2 if run.device == "cuda" else 4)
    with engine_of(run, work, shape) as (engine, memory):
        client = training_client(engine.client(), work)
        sampler = client.save_weights_and_get_sampling_client().result(timeout=run.left_s)
        few = replace(work, prompts=prompts[:2], new_tokens=4)
        _ = sampled(sampler, few, 0, limit_s=run.left_s)
        taken: list[float] = []
        outputs: list[list[tinker.SampleResponse]] = []
        for tokens in (sizes.tokens[0], sizes.tokens[0], sizes.tokens[1]):
            asked = replace(work, new_tokens=tokens)
            began = time.perf_counter()
            outputs.append(sampled(sampler, asked, 1, limit_s=run.left_s))
            taken.append(time.perf_counter() - began)
            floor = sampling_floor(costs, run.rates, prompts, sizes.group, tokens)
            count = sum(len(one.tokens) for answer in outputs[-1] for one in answer.sequences)
            name = f"{shape}, sampling {sizes.prompts} x {sizes.group} x {tokens}"
            again = " again" if len(taken) == 2 else ""
            run.tell(f"{name}{again}", taken[-1], f"{count / taken[-1]:,.0f} tokens/s", floor)
        step_row(run, shape, costs, prompts, taken)
        run.tell(f"{shape}, sampled twice", None, same_twice(outputs[0], outputs[1]), None)
        run.tell(f"{shape}, memory while sampling", None, f"{memory():.1f} GiB", None)
        learn(run, shape, client, work, costs, outputs[0])
        run.tell(f"{shape}, memory while training", None, f"{memory():.1f} GiB", None)
    return [[list(one.tokens) for one in answer.sequences] for answer in outputs[0]]


def step_row(
    run: Run, shape: str, costs: Costs, prompts: Sequence[Any], taken: Sequence[float]
) -> None:
    """One decode step, from what the longer answers took beyond the shorter ones."""
    short, long = run.sizes.tokens
    places = statistics.mean(one.length for one in prompts) + (short + long) / 2
    floor = decode_step_floor(costs, run.rates, len(prompts) * run.sizes.group, places)
    step = (taken[2] - taken[1]) / (long - short)
    name = f"{shape}, a decode step of {len(prompts) * run.sizes.group} rows"
    run.tell(name, step, f"{1e3 * step:.2f} ms; floor {1e3 * floor:.2f}", floor)
    reading = prefill_floor(costs, run.rates, prompts)
    rest = taken[1] - step * short
    run.tell(f"{shape}, reading the prompts, and the rest", rest, "", reading)


def learn(
    run: Run,
    shape: str,
    client: tinker.TrainingClient,
    work: Work,
    costs: Costs,
    output: Sequence[tinker.SampleResponse],
) -> None:
    """Forward, backward and a step from all answers, twice; how far from the sampler it is."""
    pairs = [
        (prompt, one, 1.0 if place % 2 else -1.0)
        for prompt, answer in zip(model_inputs(work.prompts), output, strict=True)
        for place, one in enumerate(answer.sequences)
    ]
    data = [
        datum(prompt, list(one.tokens), list(one.logprobs or ()), advantage)
        for prompt, one, advantage in pairs
    ]
    answers = [[list(one.tokens) for one in answer.sequences] for answer in output]
    floor = training_floor(costs, run.rates, work.prompts, answers)
    found: list[list[np.ndarray]] = []
    for name in ("first", "again"):
        began = time.perf_counter()
        done = client.forward_backward(data, "importance_sampling").result(timeout=run.left_s)
        seconds = time.perf_counter() - began
        found.append([one["logprobs"].to_numpy().reshape(-1) for one in done.loss_fn_outputs])
        figure = f"{len(data) / seconds:.1f} sequences/s"
        run.tell(f"{shape}, forward and backward of {len(data)}, {name}", seconds, figure, floor)
    began = time.perf_counter()
    client.optim_step(tinker.AdamParams(learning_rate=1e-4)).result(timeout=run.left_s)
    run.tell(f"{shape}, optimizer step", time.perf_counter() - began, "", None)
    same = sum(np.array_equal(a, b) for a, b in zip(*found, strict=True))
    run.tell(f"{shape}, learnt twice", None, f"{same} of {len(data)} the same bits", None)
    gaps = np.concatenate(
        [
            learnt[prompt.length - 1 :] - np.asarray(one.logprobs, np.float32)
            for learnt, (prompt, one, _) in zip(found[0], pairs, strict=True)
        ]
    )
    apart = np.abs(gaps)
    run.tell(
        f"{shape}, sampler against learner", None,
        f"mean {apart.mean():.2e} nats a token, largest {apart.max():.2e}, "
        f"99 % below {np.quantile(apart, 0.99):.2e}", None,
    )  # fmt: skip


@contextmanager
def mixture_in_the_making(run: Run) -> Generator[Callable[[], tuple[Path, int]]]:
    """A folder with as many of the mixture's layers as there is room for; the folder and their
    number are given once it is there."""
    shape = run.sizes.mixture
    folder, layers = run.folder / shape, layers_that_fit(run)
    with ThreadPoolExecutor(1) as beside:
        made = beside.submit(make, run, folder, shape, layers)

        def ready() -> tuple[Path, int]:
            made.result()
            return folder, layers

        yield ready


def mixture(run: Run, folder: Path, layers: int) -> None:
    """The 30B-A3B through the engine: loads, samples, trains."""
    shape, sizes = run.sizes.mixture, run.sizes
    if layers < SHAPES[shape].layers:
        run.tell(shape, None, f"with {layers} of {SHAPES[shape].layers} layers: the disk", None)
    prompts = prompts_of(str(folder), sizes.mixture_prompts, "geometry3k")
    lora = Lora(parameters=EXPERTS)
    work = Work(str(folder), prompts, sizes.group, sizes.tokens[0] // 2, lora, device=run.device)
    costs = costs_of(str(folder), 2 if run.device == "cuda" else 4)
    with engine_of(run, work, shape) as (engine, memory):
        client = training_client(engine.client(), work)
        sampler = client.save_weights_and_get_sampling_client().result(timeout=run.left_s)
        output: list[tinker.SampleResponse] = []
        for name in ("first", "again"):
            began = time.perf_counter()
            output = sampled(sampler, work, 1, limit_s=run.left_s)
            seconds = time.perf_counter() - began
            count = sum(len(one.tokens) for answer in output for one in answer.sequences)
            floor = sampling_floor(costs, run.rates, prompts, work.group, work.new_tokens)
            size = f"{len(prompts)} x {work.group} x {work.new_tokens}"
            figure = f"{count / seconds:,.0f} tokens/s"
            run.tell(f"{shape}, sampling {size}, {name}", seconds, figure, floor)
        run.tell(f"{shape}, memory while sampling", None, f"{memory():.1f} GiB", None)
        learn(run, shape, client, work, costs, output)
        run.tell(f"{shape}, memory while training", None, f"{memory():.1f} GiB", None)


@contextmanager
def engine_of(run: Run, work: Work, shape: str) -> Generator[tuple[Engine, Callable[[], float]]]:
    """An engine that has loaded the model, and what asks for the most memory since the last time,
    in GiB."""
    with ExitStack() as open_now:
        home = open_now.enter_context(TemporaryDirectory())
        log = open_now.enter_context((run.folder / f"{shape}-engine.log").open("wb"))
        began = time.perf_counter()
        engine = open_now.enter_context(
            Engine(work.model, work.device, work.threads, Path(home), log, run.left_s)
        )
        run.tell(f"{shape}, engine started", time.perf_counter() - began, "", None)
        memory = open_now.enter_context(Memory(run.device, engine.process.pid))
        run.tell(f"{shape}, memory when loaded", None, f"{memory.take():.1f} GiB", None)
        yield engine, memory.take


def same_twice(
    first: Sequence[tinker.SampleResponse], again: Sequence[tinker.SampleResponse]
) -> str:
    """How many sequences have the same tokens, and the same log-probabilities bit for bit."""
    pairs = [
        (a, b)
        for one, other in zip(first, again, strict=True)
        for a, b in zip(one.sequences, other.sequences, strict=True)
    ]
    tokens = sum(list(a.tokens) == list(b.tokens) for a, b in pairs)
    bits = sum(list(a.logprobs or ()) == list(b.logprobs or ()) for a, b in pairs)
    return f"of {len(pairs)} sequences {tokens} the same tokens, {bits} the same bits"


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


# -- the machine -----------------------------------------------------------------------------------


def make(run: Run, folder: Path, shape: str, layers: int | None) -> None:
    """A model's folder, made by a process of its own, which frees the card."""
    if (folder / "config.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "beside.shapes", shape, str(folder), "--device", run.device]
    command += ["--layers", str(layers)] if layers else []
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=as_now(), timeout=run.left_s,
            cwd=Path(__file__).parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{shape} could not be made in the time left.") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise BenchmarkError(f"{shape} could not be made: {said[-1] if said else 'no word'}.")
    run.tell(f"{shape}, made and saved", time.perf_counter() - began, done.stdout.strip(), None)


def layers_that_fit(run: Run) -> int:
    """As many layers of the mixture as the disk has room for."""
    shape = SHAPES[run.sizes.mixture]
    room = shutil.disk_usage(run.folder).free * 0.95
    width = 2 if run.device == "cuda" else 4
    fitting = [n for n in range(1, shape.layers + 1) if bytes_of(shape, n, width) <= room]
    return fitting[-1] if fitting else 1


if __name__ == "__main__":
    run_command(main)
