"""Our own runs, through the command that a user starts."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

SMALL: dict[str, object] = {
    "data.validation": 8,
    "data.test": 8,
    "evaluation.samples": 0,
    "no-evaluation.blind": True,
    "validation.every": 100_000,
    "no-logging.wandb": True,
}
"""What is not measured is kept small: evaluations before and after, validation."""


def flow_command(output: Path, fields: Mapping[str, object]) -> list[str]:
    """`python flows/train_flow.py` into `output`, with a flag for each field."""
    flags = [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in fields.items()
    ]
    return [sys.executable, str(ROOT / "flows/train_flow.py"), f"--output-dir={output}", *flags]


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without what would point a run at another server."""
    dropped = ("TINKER_", "PREFECT_", "WANDB_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"OMP_WAIT_POLICY": "PASSIVE", "TINKER_TELEMETRY": "0"} | dict(more or {})


def rows_file(output: Path, name: str) -> Path:
    """Where the run writes a row a step."""
    return output / "runs" / name / "metrics.jsonl"


def has_setting(name: str) -> bool:
    """Whether the code at hand has the setting `section.field`."""
    from visual_r1.config import RunConfig

    section, _, field = name.partition(".")
    found = RunConfig.model_fields.get(section)
    fields = getattr(found.annotation, "model_fields", {}) if found else {}
    return field in fields
