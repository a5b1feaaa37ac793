"""Our own runs, through the command that a user starts."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from beside.faults import BenchmarkError

ROOT = Path(__file__).parents[2]


def steps_alone(name: str, chosen: Namespace) -> dict[str, object]:
    """The fields of a run of `steps` steps in one chunk, of the `batch`, `group` and `tokens` that
    were chosen. What is not measured is kept small: evaluations before and after, validation."""
    return {
        "data.validation": 8,
        "data.test": 8,
        "evaluation.samples": 0,
        "no-evaluation.blind": True,
        "validation.every": 100_000,
        "no-logging.wandb": True,
        "run.name": name,
        "data.train": chosen.batch * chosen.steps,
        "train.steps": chosen.steps,
        "train.chunk_steps": chosen.steps,
        "train.batch_size": chosen.batch,
        "train.group_size": chosen.group,
        "sampling.max_new_tokens": chosen.tokens,
    }


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


Variant = tuple[str, dict[str, object]]
"""A name for tables, and the fields that make the difference."""


def add_variants_flag(parser: ArgumentParser) -> None:
    """The flag for runs of ours that differ in some settings."""
    parser.add_argument(
        "--with", nargs="+", action="append", default=[], metavar="FIELD=VALUE", dest="variants",
        help="measure ours with these settings too (--with algorithm.max_staleness=1); may be "
        "given several times",
    )  # fmt: skip


def variants_of(given: Sequence[Sequence[str]], usual: Sequence[Sequence[str]]) -> list[Variant]:
    """Ours as it is, and with each set of settings that was given, or else is usual.

    A usual set is left out where the code at hand does not have its settings. Raises
    `BenchmarkError` where a given one is no setting of this code.
    """
    found: list[Variant] = [("ours", {})]
    for fields in given or usual:
        changes = {name: value for name, _, value in (one.partition("=") for one in fields)}
        missing = [name for name in changes if not _is_setting(name)]
        if not missing:
            found.append((f"ours, {' '.join(fields)}", dict(changes)))
        elif given:
            raise BenchmarkError(
                f"--with {' '.join(fields)}: this code has no setting {missing[0]}; "
                "docs/settings.md lists those there are."
            )
    return found


def _is_setting(name: str) -> bool:
    from visual_r1.config import RunConfig

    section, _, field = name.partition(".")
    found = RunConfig.model_fields.get(section)
    return field in (getattr(found.annotation, "model_fields", {}) if found else {})
