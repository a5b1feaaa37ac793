"""How fast we train, beside plain transformers and peft on the same sequences.

    python benchmarks/training.py                       # 16 prompts x 8 answers, five rounds
    python benchmarks/training.py --micro-batch 32 --threads 2

A round is a forward and backward pass over all sequences, images included, and one optimizer step.
Ours goes through the `tinker` SDK to the embedded engine; the peer is the loop that a user of peft
writes, in micro-batches padded on the right, with logits for the answers alone, in an environment
of its own. The adapter is the same on both sides (rank 16 on all linear layers, the vision tower's
and the head's too), and starts as no change: the log-probabilities of all answers are compared
first, and where they differ nothing is measured.
"""

import argparse
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
from beside.floors import costs_of, rates_of, training_floor
from beside.results import BESIDE, Results, beside, show
from beside.sides import as_now, dumped, random_model, same_logprob, side_by_side
from beside.work import Lora, Work, answers_for, prompts_of
from visual_r1.models import TINY_GEOMETRY, model_path

PEFT = "peft"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", choices=("tiny", "60m"), default=["tiny"])
    parser.add_argument("--prompts", type=count, default=16)
    parser.add_argument("--group", type=count, default=8)
    parser.add_argument("--micro-batch", type=count, default=16, help="of the peer")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--json", type=Path, help="default: a new file in .visual-r1/benchmarks/")
    add_peers_flag(parser)
    chosen = parser.parse_args()
    python = python_of(TRANSFORMERS, chosen.peers)
    versions = {"ours": our_versions(), PEFT: asked_and_got(TRANSFORMERS, python)}
    results = Results("training", dumped(chosen), versions)
    rows: list[list[str]] = []
    with TemporaryDirectory() as folder:
        for name in chosen.models:
            rates = rates_of("cpu", chosen.threads, as_now())
            model = TINY_GEOMETRY if name == "tiny" else random_model(name, Path(folder))
            prompts = prompts_of(model, chosen.prompts)
            work = Work(
                model, prompts, chosen.group, 0, Lora(), answers_for(prompts, chosen.group),
                threads=chosen.threads, micro_batch=chosen.micro_batch,
            )  # fmt: skip
            peer = (PEFT, python, "peft_step.py")
            apart = side_by_side(
                results, name, work, peer, "sequences", chosen.rounds, same_logprob
            )
            floor = training_floor(costs_of(model_path(model), 4), rates, prompts, work.answers)
            ours, theirs = results.measured[-2:]
            times = results.ratios[f"{name}: ours / {PEFT}"]
            results.facts[name] = {"logprobs_apart": apart, "floor_s": floor, "rates": rates}
            what = f"{name}: {chosen.prompts} x {chosen.group} sequences"
            rows += beside(ours, theirs, times, floor, what, ",.1f")
    show(
        f"Training, sequences; threads {chosen.threads}, n = {chosen.rounds}: median (all)",
        BESIDE,
        rows,
        f"{results.write(chosen.json)} has every round.",
    )
    return 0


if __name__ == "__main__":
    run_command(main)
