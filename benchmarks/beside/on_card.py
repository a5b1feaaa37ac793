"""What the engine does on a card, asked through the SDK: the rows of `gpu.py` that are ours."""

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tinker

from beside.card import Memory
from beside.floors import (
    Costs,
    costs_of,
    decode_step_floor,
    prefill_floor,
    sampling_floor,
    training_floor,
)
from beside.one_call import Run, layers_that_fit, make
from beside.ours import Engine, datum, sampled, training_client
from beside.shapes import SHAPES
from beside.work import Lora, Work, model_inputs, prompts_of

EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


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
