"""What a curriculum would have drawn in runs that went without one.

    python benchmarks/curriculum.py RUN [RUN ...]           # folders under runs/, as they are

A run without a curriculum draws all problems alike, so its groups say what any other draw would
have given: at each step the weights that `curriculum.rule = "contrast"` gives by what the run had
measured until then, and the mean of its groups with those weights. It costs no training, and says
nothing of what training on other problems would have led to. Prints a Markdown table over spans of
steps: the share of groups with contrast as drawn and as the curriculum would have drawn it, and how
well the expected pass rate goes with the measured one (correlation over problems).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visual_r1.config import CurriculumSection
from visual_r1.data.dataset import prepare
from visual_r1.rl.curriculum import Measured, nothing_measured, prospects
from visual_r1.runs.folder import config_of_run
from visual_r1.runs.journal import Journal, read_rollouts

RULE = CurriculumSection(rule="contrast")


@dataclass(frozen=True)
class Step:
    """The groups of a step: `weight` in the curriculum, whether it had contrast, pass rates."""

    number: int
    weight: Any
    contrast: Any
    expected: Any
    measured: Any


def steps_of(run_dir: Path) -> Iterator[Step]:
    """The steps of a run, each with what the curriculum would have known before it."""
    config = config_of_run(run_dir)
    problems = prepare(config.data, config.output_dir).problems("train")
    place_of = {problem.id: place for place, problem in enumerate(problems)}
    _, family_N = np.unique(problems.families(), return_inverse=True)
    state = nothing_measured(len(problems))
    for number, verdicts in enumerate(verdicts_by_step(run_dir)):
        found = prospects(state, family_N, config.train.group_size, RULE)
        places = [place_of[problem] for problem in verdicts]
        right = np.array([one.count("right") for one in verdicts.values()])
        wrong = np.array([one.count("wrong") for one in verdicts.values()])
        size = np.array([len(one) for one in verdicts.values()])
        yield Step(
            number,
            found.weight_N[places],
            (right > 0) & (right < size),
            found.pass_rate_N[places],
            right / size,
        )
        fade = 2.0 ** (-1 / RULE.half_life)
        state = Measured(state.right_N * fade, state.wrong_N * fade)
        state.right_N[places] += right
        state.wrong_N[places] += wrong


def verdicts_by_step(run_dir: Path) -> list[dict[str, list[str]]]:
    """For each step the verdicts on each of its problems."""
    found: dict[int, dict[str, list[str]]] = {}
    for path in sorted(Journal(run_dir).rollouts_dir.glob("chunk-*.parquet")):
        for row in read_rollouts(path, ["step", "problem_id", "verdict"]).to_pylist():
            found.setdefault(row["step"], {}).setdefault(row["problem_id"], []).append(
                row["verdict"]
            )
    return [found[step] for step in sorted(found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--span", type=int, default=50, help="steps a row")
    chosen = parser.parse_args()
    print("| run | steps | accuracy | with contrast | by the curriculum | correlation |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for run_dir in chosen.runs:
        steps = list(steps_of(run_dir))
        for first in range(0, len(steps), chosen.span):
            span = steps[first : first + chosen.span]
            contrast, measured, expected = (
                np.concatenate([getattr(step, name) for step in span])
                for name in ("contrast", "measured", "expected")
            )
            weight = np.concatenate([step.weight for step in span])
            print(
                f"| {run_dir.name} | {span[0].number} to {span[-1].number} | {measured.mean():.1%} "
                f"| {contrast.mean():.1%} | {np.average(contrast, weights=weight):.1%} "
                f"| {np.corrcoef(expected, measured)[0, 1]:.2f} |"
            )


if __name__ == "__main__":
    main()
