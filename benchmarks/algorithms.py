"""Does each loss, advantage and normalisation raise accuracy on the quickstart task?

    python benchmarks/algorithms.py --output-dir DIR                    # all, seeds 0 to 2
    python benchmarks/algorithms.py --output-dir DIR --only ppo cispo --seeds 0

Every variant starts from the same weights and trains on the same problems, 15 steps of the preset
`quickstart`. The losses are compared in four minibatches a step, because on policy all of them have
the same gradient. Seed s trains and is judged on problems of its own (data seed 2000 + s, 256 test
problems). What is in DIR already is not run again. Prints a Markdown table; docs/algorithms.md
holds it.
"""

import argparse
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t
from whole_runs import whole_run

from visual_r1.evaluation.statistics import Pairs, exact_mcnemar, paired_difference_ci

FIRST_DATA_SEED = 2000
COMMON = [
    "--train.steps=15",
    "--no-evaluation.blind",
    "--evaluation.samples=1",
    "--evaluation.problems=256",
]
OFF_POLICY = "--algorithm.minibatches=4"
VARIANTS: dict[str, list[str]] = {
    "importance_sampling": [OFF_POLICY],
    "ppo": [OFF_POLICY, "--train.loss=ppo"],
    "ppo, clip-higher": [OFF_POLICY, "--train.loss=ppo", "--algorithm.clip_higher=0.28"],
    "cispo": [OFF_POLICY, "--train.loss=cispo"],
    "dro": [OFF_POLICY, "--train.loss=dro"],
    "gspo": [OFF_POLICY, "--train.loss=gspo"],
    "sapo": [OFF_POLICY, "--train.loss=sapo"],
    "grpo, on policy": [],
    "dr_grpo": ["--algorithm.advantage=dr_grpo"],
    "rloo": ["--algorithm.advantage=rloo"],
    "gdpo": ["--algorithm.advantage=gdpo"],
    "token mean": ["--algorithm.normalization=token"],
    "sequence mean": ["--algorithm.normalization=sequence"],
    "constant length": ["--algorithm.normalization=constant"],
}
CELLS = ("both", "gained", "lost", "neither")
HEADER = (
    "| variant | n | accuracy before | after | difference (95 % CI) | McNemar p "
    "| each seed | over seeds (95 % CI) |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments, flags = parser.parse_known_args()
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in arguments.seeds:
        for name in arguments.only:
            summary = run(arguments.output_dir, name, seed, flags)
            found.setdefault(name, {})[seed] = summary
    print("\n".join(table(found)))


def run(output_dir: Path, name: str, seed: int, flags: list[str]) -> dict[str, Any]:
    """One run to its end; its summary."""
    run_name = f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    chosen = [*COMMON, *VARIANTS[name], *flags]
    return whole_run(output_dir, run_name, seed, FIRST_DATA_SEED + seed, chosen)


def table(found: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """A Markdown row a variant: all its problems before and after, paired, and each seed apart."""
    rows = [HEADER, "| --- |" + " ---: |" * (HEADER.count("|") - 2)]
    for name, summaries in found.items():
        pairs = Pairs(
            **{cell: sum(summary[cell] for summary in summaries.values()) for cell in CELLS}
        )
        low, high = paired_difference_ci(pairs)
        deltas = [100 * summary["delta"] for summary in summaries.values()]
        rows.append(
            f"| {name} | {pairs.n} | {pairs.before:.1%} | {pairs.after:.1%} "
            f"| {100 * pairs.delta:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) "
            f"| {exact_mcnemar(pairs.gained, pairs.lost):.1e} "
            f"| {', '.join(f'{delta:+.1f}' for delta in deltas)} | {_over_seeds(deltas)} |"
        )
    return rows


def _over_seeds(deltas: list[float]) -> str:
    """The 95 % t interval of their mean: seeds as what was drawn, not problems."""
    if len(deltas) < 2:
        return ""
    half = float(t.ppf(0.975, len(deltas) - 1)) * stdev(deltas) / math.sqrt(len(deltas))
    return f"{fmean(deltas) - half:+.1f} to {fmean(deltas) + half:+.1f}"


if __name__ == "__main__":
    main()
