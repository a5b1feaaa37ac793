"""Evaluate the shipped model into a folder: a program that is killed.

    python trials/evaluating.py FOLDER [--problems N]

It says `ready` when it begins to ask, and ends with status 0 when the report is there. The same
program goes on with what it left. `evaluated` does the same in this process.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# The folder `trials` stands in the repository, and this may be run from anywhere.
sys.path.append(str(Path(__file__).parents[1]))

import tinker

from visual_r1.backend.backend import open_backend
from visual_r1.backend.waiting import Watch
from visual_r1.config import RunConfig
from visual_r1.data.procedural import generate
from visual_r1.evaluation.conditions import conditions_of
from visual_r1.evaluation.evaluate import evaluate
from visual_r1.evaluation.metrics import Report
from visual_r1.policy.policy import open_policy
from visual_r1.progress import Silent

PROGRAM = Path(__file__)
SEED = 78
MOST_AT_ONCE = 8  # answers come one after the other, and a kill finds some of them


def config_in(folder: Path, problems: int) -> RunConfig:
    """Five passes, samples and controls, of so many problems."""
    return RunConfig(
        preset="quickstart",
        output_dir=folder,
        backend={"threads": 1},  # type: ignore[arg-type]
        evaluation={  # type: ignore[arg-type]
            "samples": 2,
            "problems": problems,
            "controls": ("other_image", "scan_only"),
        },
    )


def evaluated(
    sampler: tinker.SamplingClient, watch: Watch, config: RunConfig, into: Path
) -> Report:
    """Evaluate into the folder `into`, or go on there."""
    asked = list(generate(SEED, "test", config.evaluation.problems or 1))
    conditions = conditions_of(config, "the base model", "0123abcd")
    policy = open_policy(config, watch)
    return evaluate(sampler, policy, asked, conditions, into, Silent(), most_at_once=MOST_AT_ONCE)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=int, default=12)
    given = parser.parse_args(arguments)
    config = config_in(given.folder, given.problems)
    with open_backend(config) as backend:
        sampler = backend.sampler(None)
        print("ready", flush=True)
        evaluated(sampler, backend.check, config, given.folder / "evaluation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
