"""How to repeat a run: the commands, spelt as flags, and the versions that it was made with."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from visual_r1.config import RunConfig
from visual_r1.config.overrides import resolved
from visual_r1.config.presets import preset_names
from visual_r1.errors import VisualR1Error
from visual_r1.runs.config_file import read_config
from visual_r1.runs.journal import MetricsRow
from visual_r1.runs.made_with import MadeWith, read_made_with

# Where a run lies is for who repeats it to choose.
_NOT_REPEATED = frozenset({"preset", "output_dir", "train.resume_from_step", "train.more_steps"})


@dataclass(frozen=True, slots=True)
class Repeat:
    """`commands` are what each does and how it is typed; `made_with` the versions, oldest first."""

    commands: Sequence[tuple[str, str]]
    made_with: Sequence[MadeWith]


def repeat_of(run_dir: Path, metrics: Sequence[MetricsRow]) -> Repeat | None:
    """How to repeat the run in `run_dir`; None where its configuration cannot be read any more."""
    try:
        config = read_config(run_dir)
    except VisualR1Error:
        return None  # of another version: its settings are shown as they stand
    if config is None or config.preset not in preset_names():
        return None
    name = shlex.quote(run_dir.name)
    supervised = any("response_loss" in row for row in metrics)
    commands = [
        ("The same run from its beginning", command_of(config, supervised=supervised)),
        ("The files, held against what was written", f"visual-r1 verify runs/{name}"),
        ("Its last chunk, replayed bit for bit", f"visual-r1 resume runs/{name} --prove"),
        ("This page, and all the run's figures, as data", f'visual_r1.open_run("runs/{name}")'),
    ]
    return Repeat(commands, read_made_with(run_dir))


def command_of(config: RunConfig, *, supervised: bool = False) -> str:
    """The command that makes a run of `config`: its preset, and a flag for what differs."""
    there = flattened(resolved({"preset": config.preset}).model_dump(mode="json"))
    here = flattened(config.model_dump(mode="json"))
    flow = "sft_flow" if supervised else "train_flow"
    words = ["python", f"flows/{flow}.py", "--preset", config.preset]
    for key, value in here.items():
        if key in _NOT_REPEATED or value == there.get(key):
            continue
        if isinstance(value, bool):
            words.append(f"--{key}" if value else f"--no-{key}")
        elif value is not None:
            words.append(f"--{key}={value}")
    return shlex.join(words)


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to their values, as flags spell them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flattened(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
