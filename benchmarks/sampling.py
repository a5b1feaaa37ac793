"""How fast we sample, beside transformers' `generate` on the same model, prompts and lengths.

    python benchmarks/sampling.py                       # the first five cases, five rounds each
    python benchmarks/sampling.py --cases tiny-8 tiny-8-lora --rounds 9
    python benchmarks/sampling.py --cases tiny-8-static tiny-8-compiled tiny-8-continuous

Ours is the embedded engine, in a process of its own, asked through the `tinker` SDK: HTTP, queue
and client are in its time. `generate` runs in the peer's own environment, with all prompts in one
batch and nothing between it and the network. Both have their model loaded; rounds are run in turn.
Every answer has its full length on both sides. The greedy answers of both are compared first: a
ratio of two things that differ means nothing.

The cache of `generate` grows; in further cases, which are run where they are named, it is static,
or its step is compiled as well, or requests are batched continuously (`work.Cache`).

The floor is what the machine would take for the products and the bytes that the work needs, by
rates measured just before (see `beside.floors`).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from beside.environments import (
    TRANSFORMERS,
    add_peers_flag,
    asked_and_got,
    our_versions,
    python_of,
)
from beside.faults import count, run_command
from beside.floors import costs_of, rates_of, sampling_floor
from beside.results import BESIDE, Results, beside, show
from beside.sides import as_now, dumped, random_model, same_greedy, side_by_side
from beside.work import Cache, Lora, Work, prompts_of
from visual_r1.models import TINY_GEOMETRY, model_path

GENERATE = "generate"


@dataclass(frozen=True)
class Case:
    """Of the shipped model, or of a shape with random weights."""

    prompts: int
    group: int
    tokens: int
    shape: str | None = None
    lora: bool = False
    cache: Cache = "dynamic"
    """Of the peer."""


CASES = {
    "tiny-1": Case(16, 1, 60),
    "tiny-8": Case(16, 8, 60),
    "tiny-16": Case(16, 16, 60),
    "tiny-8-lora": Case(16, 8, 60, lora=True),
    "60m-8": Case(4, 8, 128, shape="60m"),
    "tiny-8-static": Case(16, 8, 60, cache="static"),
    "tiny-8-lora-static": Case(16, 8, 60, lora=True, cache="static"),
    "60m-8-static": Case(4, 8, 128, shape="60m", cache="static"),
    "tiny-8-compiled": Case(16, 8, 60, cache="compiled"),
    "60m-8-compiled": Case(4, 8, 128, shape="60m", cache="compiled"),
    "tiny-8-continuous": Case(16, 8, 60, cache="continuous"),
}
USUAL = [name for name, case in CASES.items() if case.cache == "dynamic"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=USUAL)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--json", type=Path, help="default: a new file in .visual-r1/benchmarks/")
    add_peers_flag(parser)
    chosen = parser.parse_args()
    python = python_of(TRANSFORMERS, chosen.peers)
    versions = {"ours": our_versions(), GENERATE: asked_and_got(TRANSFORMERS, python)}
    results = Results("sampling", dumped(chosen), versions)
    rows: list[list[str]] = []
    with TemporaryDirectory() as folder:
        for name in chosen.cases:
            rates = rates_of("cpu", chosen.threads, as_now())
            case = CASES[name]
            model = random_model(case.shape, Path(folder)) if case.shape else TINY_GEOMETRY
            work = Work(
                model, prompts_of(model, case.prompts), case.group, case.tokens,
                Lora() if case.lora else None, threads=chosen.threads, cache=case.cache,
            )  # fmt: skip
            peer = (GENERATE, python, "hf_generate.py")
            agreed = side_by_side(results, name, work, peer, "tokens", chosen.rounds, same_greedy)
            costs = costs_of(model_path(model), 4)
            floor = sampling_floor(costs, rates, work.prompts, work.group, work.new_tokens)
            ours, theirs = results.measured[-2:]
            times = results.ratios[f"{name}: ours / {GENERATE}"]
            results.facts[name] = {
                "greedy_agreement": agreed,
                "floor_s": floor,
                "rates": rates,
            }
            what = f"{name}: {case.prompts} x {case.group} x {case.tokens} tokens"
            rows += beside(ours, theirs, times, floor, what, ",.0f")
    show(
        f"Sampling, tokens; threads {chosen.threads}, n = {chosen.rounds}: median (all)",
        BESIDE,
        rows,
        f"{results.write(chosen.json)} has every round.",
    )
    return 0


if __name__ == "__main__":
    run_command(main)
