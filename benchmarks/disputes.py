"""Wrong labels, planted among right ones: how high the list of disputes has them.

    python benchmarks/disputes.py runs/quickstart-0a1b2c3d [--share 0.03] [--seeds 5]

The run's problems are drawn, so their labels are right. Some get another gold answer, that of
another problem of their family, and the run's stored answers are counted anew: of the n planted,
how many are among the first n, and the first 2 n, of the list.
"""

import argparse
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from visual_r1.data.problem import Split
from visual_r1.disputes.agreement import Agreements
from visual_r1.disputes.answers import Said, judged, said_in_evaluations, said_in_rollouts
from visual_r1.evaluation.metrics import evaluation_names
from visual_r1.regrade.golds import Gold, Thoughts, dataset_with, golds_of
from visual_r1.runs.folder import config_of_run
from visual_r1.runs.labels import Labels
from visual_r1.runs.ledger import Ledger


def ranked(said: Mapping[str, Said], golds: Mapping[str, Gold]) -> list[str]:
    """The disputes, the least likely first."""
    verdicts = {id: judged(one, golds[id], "exact") for id, one in said.items()}
    agreements = Agreements((one.agreeing, one.n) for one in verdicts.values())
    disputed = {id: one for id, one in verdicts.items() if one.against_gold}
    return sorted(
        disputed,
        key=lambda id: (
            agreements.p_value(disputed[id].agreeing, disputed[id].n),
            disputed[id].right - disputed[id].agreeing,
            id,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--share", type=float, default=0.03, help="of the problems")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    config = config_of_run(options.run)
    thoughts = Thoughts(config)
    digest = Ledger(options.run).rows()[-1].dataset_digest
    dataset = dataset_with(config.output_dir, digest)
    names = evaluation_names(options.run)
    parts: dict[str, tuple[Split, Mapping[str, Said]]] = {
        "rollouts": ("train", said_in_rollouts(options.run, thoughts)),
        "evaluations": ("test", said_in_evaluations(options.run, names, thoughts)),
    }
    print("| answers | problems | planted | disputed | among the first n | among the first 2 n |")
    print("| --- | --: | --: | --: | --: | --: |")
    for what, (split, said) in parts.items():
        golds = golds_of(dataset, split, Labels())
        count = max(1, round(options.share * len(said)))
        found: list[tuple[int, int, int]] = []
        for seed in range(options.seeds):
            draw = random.Random(seed)
            planted = draw.sample(sorted(said), count)
            wrong = dict(golds)
            for id in planted:
                others = sorted({one.answer for one in golds.values()} - {golds[id].answer})
                wrong[id] = replace(golds[id], answer=draw.choice(others))
            order = ranked(said, wrong)
            ends = (len(order), count, 2 * count)
            every, first, second = (len({*order[:end]} & {*planted}) for end in ends)
            found.append((every, first, second))
        every, first, second = (fmean(column) for column in zip(*found, strict=True))
        print(
            f"| {what} | {len(said)} | {count} | {every:.1f} | {first:.1f} | {second:.1f} |"
            f"  (n = {options.seeds})"
        )


if __name__ == "__main__":
    main()
