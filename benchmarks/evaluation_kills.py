"""Random kills of an evaluation, through the real command; are its predictions the same?

    python benchmarks/evaluation_kills.py                  # ten kills
    python benchmarks/evaluation_kills.py --kills 20 --problems 128 --seed 3

`python flows/evaluate_flow.py` asks the shipped model about the problems of the quickstart: greedy,
blind, with another picture, question only, from the scan, and 4 samples. Once it is left alone.
Then the same evaluation is started in another folder, and killed with SIGKILL, again and again, at
moments drawn from `--seed`: each when so many more answers are kept as were drawn, or at a drawn
second before that (in the imports, while the server starts). At last it is let go to its end. Its
rows must be those of the undisturbed one, and what it says it has spent no less: a kill costs the
answers that were under way, which are asked again.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# The folder `trials` stands beside this one.
sys.path.append(str(Path(__file__).parents[1]))

from trials.programs import ROOT, clean_environment
from visual_r1.evaluation.answers import ANSWERS_NAME
from visual_r1.evaluation.metrics import Report, read_report
from visual_r1.evaluation.predictions import read_predictions

NAME = "killed"
CONTROLS = "other_image,question_only,scan_only"


def command(folder: Path, problems: int) -> list[str]:
    """The evaluation of the base model, into `evaluations/killed` of its run."""
    flags = {
        "output-dir": folder,
        "run.name": "asked",
        "name": NAME,
        "data.train": 8,
        "data.validation": 8,
        "data.test": problems,
        "evaluation.samples": 4,
        "evaluation.controls": CONTROLS,
        "backend.threads": 1,
    }
    given = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    return [sys.executable, str(ROOT / "flows/evaluate_flow.py"), *given, "--no-logging.wandb"]


def start(folder: Path, problems: int) -> "subprocess.Popen[bytes]":
    """The command, as a user starts it; what it prints goes to `output.log`."""
    with (folder / "output.log").open("ab") as log:
        return subprocess.Popen(
            command(folder, problems), cwd=folder, env=clean_environment(), stdout=log, stderr=log
        )


def evaluation(folder: Path) -> Path:
    """Where the evaluation is kept."""
    return folder / "runs/asked/evaluations" / NAME


def kept(folder: Path) -> int:
    """How many answers are kept."""
    path = evaluation(folder) / ANSWERS_NAME
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(folder: Path, problems: int, rng: random.Random, most: int) -> str | None:
    """Start it, kill it at a drawn moment, and say when; None where it was at its end before."""
    process = start(folder, problems)
    more = rng.randrange(1, most)
    at_start = rng.random() < 0.2
    until = time.monotonic() + rng.uniform(1, 15)
    before = kept(folder)
    while process.poll() is None:
        if at_start and time.monotonic() > until:
            break
        if not at_start and kept(folder) >= before + more:
            break
        time.sleep(0.01)
    if process.poll() is not None:
        return None if process.returncode == 0 else f"exit status {process.returncode}"
    process.send_signal(signal.SIGKILL)
    process.wait()
    now = kept(folder)
    return f"killed {'at its start' if at_start else 'while it asked'}: {now} answers are kept"


def ended(folder: Path, problems: int) -> tuple[Report, list[dict[str, object]]]:
    """Let it go to its end; the report and the rows."""
    process = start(folder, problems)
    if process.wait() != 0:
        sys.exit((folder / "output.log").read_text()[-2000:])
    return read_report(evaluation(folder)), read_predictions(evaluation(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, compare, say; 1 where the rows differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        alone, rows = ended(Path(first), given.problems)
        folder = Path(second)
        requests = 6 * given.problems  # described too; scan_only comes on top
        said = 0
        while said < given.kills:
            when = killed(folder, given.problems, rng, max(2, 2 * requests // given.kills))
            if when is None:
                print("it was at its end before the last kill: more problems, or fewer kills")
                break
            said += 1
            print(f"{said}: {when}", flush=True)
        report, after = ended(folder, given.problems)
        left = sorted(path.name for path in evaluation(folder).iterdir())
    same = after == rows
    wanted = alone.spending.tokens_sampled or 0
    spent = report.spending.tokens_sampled or 0
    print(
        f"{said} kills: {len(rows)} rows of {len(rows[0])} columns are "
        f"{'the same' if same else 'NOT the same'}; "
        f"{spent:g} tokens sampled are counted, {wanted:g} where nothing was killed; "
        f"in the folder are {', '.join(left)}"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
