"""Does reinforcement teach the shipped model anything? Whole runs over several seeds.

    python benchmarks/learning.py --output-dir DIR            # seeds 0 to 4
    python benchmarks/learning.py --output-dir DIR --control  # the same with a coin for a reward

Each seed trains on its own problems and is judged on 512 test problems of its own, whose seed
(1000 + seed) served nothing else. What is in DIR already is not run again. Prints a Markdown table;
docs/learning.md holds it.
"""

import argparse
from pathlib import Path
from typing import Any

from whole_runs import points, whole_run

FIRST_DATA_SEED = 1000
CONTROL = {"random": 1, "accuracy": 0, "format": 0, "visual_grounding": 0}
HEADER = (
    "| seed | accuracy before | after | difference (95 % CI) | McNemar p | pass@8 | blind | wall |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--control", action="store_true", help="reward a coin flip instead")
    arguments, flags = parser.parse_known_args()
    summaries = {
        seed: run(arguments.output_dir, seed, arguments.control, flags) for seed in arguments.seeds
    }
    print("\n".join(table(summaries)))


def run(output_dir: Path, seed: int, control: bool, flags: list[str]) -> dict[str, Any]:
    """One run to its end; its summary."""
    name = f"{'control' if control else 'learning'}-{seed}"
    reward = [f"--reward.{key}={value}" for key, value in CONTROL.items()] if control else []
    return whole_run(output_dir, name, seed, FIRST_DATA_SEED + seed, [*reward, *flags])


def table(summaries: dict[int, dict[str, Any]]) -> list[str]:
    """The summaries as the lines of a Markdown table, with the mean difference below."""
    rows = [HEADER, "| --- |" + " ---: |" * 7]
    for seed, summary in summaries.items():
        passes, blind = summary["pass_at_k"], summary["blind"]
        rows.append(
            f"| {seed} | {summary['baseline']:.1%} | {summary['final']:.1%} "
            f"| {points(summary)} "
            f"| {summary['p_value']:.1e} | {passes['baseline']:.1%} → {passes['final']:.1%} "
            f"| {blind['baseline']:.1%} → {blind['final']:.1%} "
            f"| {summary['wall_seconds'] / 60:.1f} min |"
        )
    mean = sum(summary["delta"] for summary in summaries.values()) / len(summaries)
    return [*rows, "", f"Mean difference: {100 * mean:+.1f} points over {len(summaries)} seeds."]


if __name__ == "__main__":
    main()
