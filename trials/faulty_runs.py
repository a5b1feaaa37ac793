"""A small run at any address, on an engine whose home can be read: behind a fault proxy, say."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trials.run_outcome import Outcome, outcome_of
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.engine.launch import RunningEngine
from visual_r1.progress import Progress, Silent
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.run import Run

SILENT = Silent()


KINDS: dict[str, dict[str, Any]] = {
    # A coin flip in the reward, so that every step updates.
    "second-pass": {
        "train": {"batch_size": 2, "group_size": 2, "skip_without_contrast": False},
        "prompt": {"template": "scan_think"},
        "second_pass": {"enabled": True},
        "sampling": {"max_new_tokens": 32},
        "reward": {"random": 1.0},
    },
    # Further draws until enough groups have contrast, by what was measured of the problems, and the
    # base model's log-probabilities.
    "dynamic-kl": {
        "train": {"batch_size": 2, "group_size": 4},
        "algorithm": {"dynamic_rounds": 2, "kl_coefficient": 0.05},
        "curriculum": {"rule": "contrast"},
        "sampling": {"max_new_tokens": 64},
    },
}
"""What a run may ask of a server, in small."""


def config_of(
    folder: Path, name: str, steps: int, chunk_steps: int, kind: str = "second-pass"
) -> RunConfig:
    """A run of small steps with what `kind`, one of `KINDS`, asks for."""
    chosen = KINDS[kind]
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "run": {"name": name},
            "backend": {"server": "remote", "recoveries_per_hour": 1000},
            "data": {"train": 8, "validation": 4, "test": 4},
            **chosen,
            "train": {"steps": steps, "chunk_steps": chunk_steps, **chosen["train"]},
        }
    )


def run(
    config: RunConfig,
    engine: RunningEngine,
    home: Path,
    url: str,
    progress: Progress = SILENT,
) -> Outcome:
    """Train at `url`, where `engine` is reached, and read what came of it from its `home`."""
    with (
        _environment(TINKER_BASE_URL=url, TINKER_API_KEY=engine.api_key, TINKER_TELEMETRY="0"),
        open_run_folder(config) as run_dir,
        open_backend(config) as backend,
    ):
        dataset = prepare(config.data, config.output_dir)
        work = Run(config, run_dir, dataset, backend, progress)
        row = None
        while row is None or row.step < config.train.steps:
            row = train_chunk(work, row)
    return outcome_of(run_dir, home)


@contextmanager
def _environment(**values: str) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
