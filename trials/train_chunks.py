"""The library's training without Prefect, chunk by chunk; a line on stdout at each event.

`python trials/train_chunks.py FOLDER` is what benchmarks/kills.py kills, and tests/e2e in small.
"""

import sys
from pathlib import Path

from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.errors import VisualR1Error
from visual_r1.progress import PlainProgress
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.export import export
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.resume import resume_point
from visual_r1.runs.run import Run

STEPS, CHUNK_STEPS = 8, 2


def config(folder: Path) -> RunConfig:
    """Small, and with all that can differ on the way: second passes, a curriculum, and a coin flip
    in the reward, so that every step updates, whatever the model can do."""
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "run": {"name": "chunks"},
            "backend": {"threads": 1, "recoveries_per_hour": 100},
            "data": {"train": 8, "validation": 4, "test": 4},
            "train": {
                "steps": STEPS,
                "chunk_steps": CHUNK_STEPS,
                "batch_size": 2,
                "group_size": 4,
                "skip_without_contrast": False,
            },
            "curriculum": {"rule": "contrast"},
            "prompt": {"template": "scan_think"},
            "second_pass": {"enabled": True, "minus_question_only": True},
            "sampling": {"max_new_tokens": 32},
            "reward": {"random": 1.0},
        }
    )


def main(folder: Path) -> None:
    """Train to the end and export, from wherever the folder is."""
    settings = config(folder)
    progress = PlainProgress(sys.stdout, interval_s=0)
    with open_run_folder(settings) as run_dir, open_backend(settings) as backend:
        dataset = prepare(settings.data, settings.output_dir)
        run = Run(settings, run_dir, dataset, backend, progress)
        row = resume_point(run)
        say(f"from step {row.step if row else 0}")
        while row is None or row.step < STEPS:
            row = train_chunk(run, row)
            say(f"checkpoint {row.step}")
        export(run, row)
    say("exported")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except VisualR1Error as error:
        sys.exit(f"error: {error}")
