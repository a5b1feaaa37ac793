"""Reading a run folder: what a report, a summary or a tracker needs, and nothing that trains."""

import json
from pathlib import Path
from typing import Any, cast

from visual_r1.errors import DataError

Row = dict[str, Any]


def read_metrics(run_dir: Path) -> list[Row]:
    """The rows of `metrics.jsonl` in the order of their steps, each step once.

    A line that is being written while this reads is left out. Empty where nothing was trained.
    """
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    by_step: dict[int, Row] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(cast(Row, row).get("step"), int):
            by_step[row["step"]] = cast(Row, row)
    return [by_step[step] for step in sorted(by_step)]


def read_object(path: Path) -> Row | None:
    """A JSON object; None where the file is not there, `DataError` where it is damaged."""
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}): remove it and start the run again."
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object: remove it and start the run again.")
    return cast(Row, value)


def evaluation_names(run_dir: Path) -> list[str]:
    """The complete evaluations of a run, in alphabetical order."""
    return sorted(path.parent.name for path in run_dir.glob("evaluations/*/report.json"))
