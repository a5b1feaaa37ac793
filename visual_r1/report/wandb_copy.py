"""The offline copy of a run for W&B: one folder that `wandb sync` uploads.

An offline copy that has ended cannot be continued: a later one with the same id replaces it when
both are synced. So while a run trains its copy is kept open, and what is new is added at each
checkpoint. It is begun with all there is when a start of the run first tells W&B, and at the end of
the run it is written once more, whole and with the tables. The one before goes when the next is
there. A process that dies leaves its copy as far as it came, and the next start begins another.
"""

import atexit
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visual_r1.config import RunConfig
from visual_r1.evaluation.metrics import REPORT_NAME, evaluation_folder
from visual_r1.hashing import digest
from visual_r1.report.summary import SUMMARY_NAME
from visual_r1.report.wandb_service import (
    begin_wandb_run,
    end_wandb_run,
    let_go_of_dead_service,
    open_wandb_run,
    serves,
    while_told,
)
from visual_r1.report.wandb_telling import Contents, Told, contents_of, tell
from visual_r1.runs.journal import Journal


@dataclass(slots=True)
class _Open:
    """A copy that is not ended: its run at W&B's library, what it holds, and of which rows."""

    config: RunConfig
    run: Any
    told: Told
    generation: int


_open: dict[Path, _Open] = {}


def add(config: RunConfig, told: Told) -> Told | None:
    """Bring the copy up to the run's files, but for tables.

    Returns what is to be noted where another copy was begun. One that holds all stays as it is.
    """
    run_dir = config.run_dir
    generation = Journal(run_dir).generation()
    copy = _open.get(run_dir)
    if copy is not None and not serves():
        forget(run_dir)
        let_go_of_dead_service()
        copy = None
    elif copy is not None and copy.generation != generation:
        end(run_dir)
        copy = None
    if copy is None:
        return _begin(config, told, generation)
    there = contents_of(run_dir, copy.told)
    new = there.since(copy.told)
    if not new.is_empty:
        with while_told(config):
            tell(copy.run, new, there.next_step, tables=False)
        copy.told = there.all_of(copy.told)
    return None


def _begin(config: RunConfig, told: Told, generation: int) -> Told | None:
    there = contents_of(config.run_dir, Told(told.ident))
    before = _copies(config.run_dir)
    if not (there.rows or there.evaluations) or (before and told.offline_copy in _enough(there)):
        return None
    run = begin_wandb_run(config, "offline", told.ident)
    holds = there.all_of(Told(told.ident))
    _open[config.run_dir] = _Open(config, run, holds, generation)
    # Anew each time: it comes before what W&B's library does at the exit, which it has registered.
    atexit.unregister(_end_all)
    atexit.register(_end_all)
    with while_told(config):
        tell(run, there, there.next_step, tables=False)
    _remove(before)
    return replace(told, offline_copy="")


def write_whole(config: RunConfig, told: Told) -> Told | None:
    """Write the copy anew with its tables, where it lacks anything; what is to be noted of it."""
    run_dir = config.run_dir
    end(run_dir)
    there = contents_of(run_dir, Told(told.ident))
    before = _copies(run_dir)
    signature = _signature(there, tables=True)
    if not (there.rows or there.evaluations) or (before and told.offline_copy == signature):
        return None
    # Pictures that an earlier copy staged; the new one stages its own.
    shutil.rmtree(run_dir / "wandb" / "data", ignore_errors=True)
    with open_wandb_run(config, "offline", told.ident) as run:
        tell(run, there, there.next_step, tables=True)
    _remove(before)
    return replace(told, offline_copy=signature)


def end(run_dir: Path) -> None:
    """End the copy that is open, where there is one: all of it is in its file then."""
    if (copy := _open.pop(run_dir, None)) is not None:
        end_wandb_run(copy.config, copy.run)


def _end_all() -> None:
    for run_dir in list(_open):
        with suppress(Exception, SystemExit):  # the next start writes it anew
            end(run_dir)
    let_go_of_dead_service()


def forget(run_dir: Path) -> None:
    """Let go of an open copy that W&B's library may have lost; the next one is begun anew."""
    _open.pop(run_dir, None)


def _copies(run_dir: Path) -> Sequence[Path]:
    return list((run_dir / "wandb").glob("offline-run-*"))


def _remove(copies: Sequence[Path]) -> None:
    for folder in copies:
        shutil.rmtree(folder, ignore_errors=True)


def _enough(there: Contents) -> set[str]:
    return {_signature(there, tables=tables) for tables in (True, False)}


def _signature(there: Contents, *, tables: bool) -> str:
    """Of what an offline copy holds: equal where writing it again would change nothing."""
    run_dir = there.folder
    paths = [evaluation_folder(run_dir, name) / REPORT_NAME for name in there.evaluations]
    present = [path for path in (*paths, run_dir / SUMMARY_NAME) if path.exists()]
    parts = [(str(path.relative_to(run_dir)), path.stat().st_mtime_ns) for path in present]
    seen = [len(there.rows), there.rows[-1:], there.validated, there.alarmed]
    return digest([*seen, parts, tables], 16)
