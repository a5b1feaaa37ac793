"""The folder of a sweep, `sweeps/<name>/`: its plan, and what came of it.

`plan.json` says which runs belong to it; what they did is in their own folders under `runs/`.
`summary.json`, `report.html`, `comparison.svg` and `table.md` are made of those, and can be made
again at any time.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from visual_r1.errors import RunError, StorageError
from visual_r1.printing import open_logger
from visual_r1.runs.folder import config_without_secrets
from visual_r1.runs.process import owner_in
from visual_r1.storage import clear_leftovers, put_aside, read_json, write_json, write_text
from visual_r1.sweeps.plan import Plan

logger = open_logger(__name__)

PLAN_NAME = "plan.json"
SUMMARY_NAME, PAGE_NAME, PICTURE_NAME, TABLE_NAME = (
    "summary.json", "report.html", "comparison.svg", "table.md",
)  # fmt: skip

_STORED = TypeAdapter(dict[str, Any])


def sweep_folder(plan: Plan) -> Path:
    """Where the sweep's files are."""
    return plan.base.output_dir / "sweeps" / plan.sweep.name


@contextmanager
def open_sweep_folder(plan: Plan) -> Generator[Path]:
    """Yield the sweep's folder, made if need be, for this process alone; the plan is in it then.

    Says which runs joined and which left since it was there last. Raises `RunError` where another
    process works on the sweep, `StorageError` where the folder cannot be made or written.
    """
    folder = sweep_folder(plan)
    owner = folder / ".owner"
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"The sweep {folder} is being worked on by another process (pid {owner_in(owner)}): "
            "wait until it ends, or give this one another name."
        ) from error
    except OSError as error:
        raise StorageError(
            f"could not make the sweep's folder {folder}: {error.strerror or error}. "
            "Choose another place with --output-dir."
        ) from error
    try:
        clear_leftovers(folder)
        write_text(owner, f"{os.getpid()}\n")
        _keep(plan, folder / PLAN_NAME)
        yield folder
    finally:
        lock.release()


def _keep(plan: Plan, path: Path) -> None:
    """Write the plan, and say how it differs from the one that was there."""
    content = {
        "sweep": plan.sweep.model_dump(mode="json"),
        "base": config_without_secrets(plan.base),
        "members": [
            {
                "run": member.run,
                "label": member.label,
                "seed": member.seed,
                "changes": dict(member.changes),
            }
            for member in plan.members
        ],
    }
    before = _runs_before(path)
    now = {member.run: member.name for member in plan.members}
    if before is not None:
        joined = [name for run, name in now.items() if run not in before]
        left = [name for run, name in before.items() if run not in now]
        for names, what in ((joined, "joined"), (left, "left; their runs stay where they are")):
            if names:
                logger.warning(
                    "Since the sweep %s was last started, these have %s: %s.",
                    *(plan.sweep.name, what, "; ".join(names)),
                )
    write_json(path, content)


def _runs_before(path: Path) -> dict[str, str] | None:
    """Names of runs, with those that a person reads; None where no plan is there."""
    try:
        stored = read_json(path, _STORED)
        return {one["run"]: f"{one['label']} seed={one['seed']}" for one in stored["members"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        aside = put_aside(path)
        logger.warning(
            "%s is damaged (%s) and was moved to %s; the plan is written again.",
            *(path, error, aside),
        )
        return None
