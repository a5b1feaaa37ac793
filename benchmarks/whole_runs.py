"""A whole run through the command a user starts, for benchmarks that compare many."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def whole_run(
    output_dir: Path, name: str, seed: int, data_seed: int, flags: Sequence[str]
) -> dict[str, Any]:
    """Run `name` in `output_dir` to its end, from wherever it is; its summary.

    `seed` is that of training and evaluation, `data_seed` that of its problems.
    """
    summary = output_dir / "runs" / name / "summary.json"
    if not summary.exists():
        command = [
            sys.executable,
            str(ROOT / "flows/train_flow.py"),
            f"--output-dir={output_dir}",
            f"--run.name={name}",
            f"--train.seed={seed}",
            f"--data.seed={data_seed}",
            f"--evaluation.seed={seed}",
            "--no-logging.wandb",
            *flags,
        ]
        subprocess.run(command, check=True)
    return json.loads(summary.read_text())


def points(summary: dict[str, Any]) -> str:
    """What became better, in points, with its 95 % interval."""
    low, high = summary["delta_ci95"]
    return f"{100 * summary['delta']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
