"""The library's training without Prefect, chunk by chunk; a line on stdout at each event.

`python trials/train_chunks.py FOLDER [WAY]` is what benchmarks/kills.py kills, and tests/e2e in
small. The way `stale` samples ahead of the learner, and gives it each batch in two parts;
`validated` has validation and dynamic sampling beside the curriculum, `supervised` learns the
solutions that drawn problems come with.
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
from visual_r1.runs.validate import validate

STEPS, CHUNK_STEPS = 8, 2


def config(folder: Path, way: str = "chunks") -> RunConfig:
    """Small, and with all that can differ on the way: second passes, a curriculum, and a coin flip
    in the reward, so that every step updates, whatever the model can do."""
    supervises = way == "supervised"
    train: dict[str, object] = {
        "steps": STEPS,
        "chunk_steps": CHUNK_STEPS,
        "batch_size": 2,
        "group_size": 4,
        "skip_without_contrast": way == "validated",
    }
    more: dict[str, object] = {
        "validation": {"every": 1, "problems": 4},
        "algorithm": {"dynamic_rounds": 2},
        "sampling": {"max_new_tokens": 64},
    }
    ahead: dict[str, object] = {
        "algorithm": {"max_staleness": 1},
        "pipeline": {"parts": 2, "correction": "token_truncate"},
    }
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "run": {"name": way},
            "backend": {"threads": 1, "recoveries_per_hour": 100},
            "data": {"train": 8, "validation": 4, "test": 4},
            "train": train,
            "curriculum": {"rule": "none" if supervises else "contrast"},
            **({"sft": {"responses": "meta.solution"}} if supervises else {}),
            "prompt": {"template": "scan_think"},
            "second_pass": {"enabled": True, "minus_question_only": True},
            "sampling": {"max_new_tokens": 96 if supervises else 32},
            "reward": {"random": 1.0},
            **(more if way == "validated" else {}),
            **(ahead if way == "stale" else {}),
        }
    )


def main(folder: Path, way: str = "chunks") -> None:
    """Train to the end and export, from wherever the folder is."""
    settings = config(folder, way)
    progress = PlainProgress(sys.stdout, interval_s=0)
    with open_run_folder(settings) as run_dir, open_backend(settings) as backend:
        dataset = prepare(settings.data, settings.output_dir)
        run = Run(settings, run_dir, dataset, backend, progress)
        row = resume_point(run)
        say(f"from step {row.step if row else 0}")
        validate(run, row)
        while row is None or row.step < STEPS:
            row = train_chunk(run, row)
            validate(run, row)
            say(f"checkpoint {row.step}")
        export(run, row)
    say("exported")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except VisualR1Error as error:
        sys.exit(f"error: {error}")
