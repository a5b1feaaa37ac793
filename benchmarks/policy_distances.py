"""How far apart sampler and learner were, over all steps of all runs below some folders.

    python benchmarks/policy_distances.py DIR...

Reads each `runs/*/metrics.jsonl`; prints a Markdown table in nats a token: `kl_sampler_learner` of
the first minibatch of a step, which the sampler's own weights learn from, and `off_policy_kl` of
the later ones. docs/failures.md holds what came of it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visual_r1.runs.journal import read_metrics

KEYS = ("kl_sampler_learner", "off_policy_kl")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", type=Path, nargs="+")
    runs = [
        read_metrics(path.parent)
        for folder in parser.parse_args().folders
        for path in sorted(folder.rglob("runs/*/metrics.jsonl"))
    ]
    print("| | runs | steps | median | 99 % below | largest |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for key in KEYS:
        found = [[row[key] for row in rows if row.get(key) is not None] for rows in runs]
        print(line(key, [values for values in found if values]))


def line(key: str, runs: Sequence[Sequence[float]]) -> str:
    """One row of the table."""
    values = [value for run in runs for value in run]
    if not values:
        return f"| `{key}` | 0 | 0 | | | |"
    middle, high = np.quantile(values, [0.5, 0.99])
    return (
        f"| `{key}` | {len(runs)} | {len(values):,} "
        f"| {middle:.1e} | {high:.1e} | {max(values):.1e} |"
    )


if __name__ == "__main__":
    main()
