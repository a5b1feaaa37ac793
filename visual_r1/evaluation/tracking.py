"""A run on W&B: steps, validations, and each evaluation's rates and predictions with pictures.

Everything comes from the run folder's files, so tracking can be late, repeated or broken without
harm to the run. Online, what is new is added to one W&B run that a resumed run continues; what W&B
has of it already, since a kill came before that was noted here, is not told again. Offline
copies cannot be continued (a later one with the same id replaces an earlier one when both are
synced), so the offline copy is always the whole run, written anew, in one folder that
`wandb sync` uploads.
"""

import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from visual_r1.alarms import AlarmLog
from visual_r1.config import RunConfig
from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import REPORT_NAME
from visual_r1.evaluation.summary import FILE_NAME
from visual_r1.evaluation.wandb_contents import ALARMED, tell, tell_alarms, tell_validations
from visual_r1.evaluation.wandb_runs import (
    Mode,
    failures,
    let_go_of_a_dead_service,
    mode_of,
    open_run,
)
from visual_r1.hashing import digest
from visual_r1.runs.folder import config_without_secrets
from visual_r1.runs.journal import Row, evaluation_names, read_metrics, read_object
from visual_r1.runs.validations import Validations
from visual_r1.storage import write_json

logger = logging.getLogger(__name__)

STATE_NAME = "tracked.json"
# The offline copy is for later, so while a run trains it need not be fresh to the second.
OFFLINE_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class _State:
    """What W&B has been told.

    `next_step`, `row`, `evaluations`, `validated` (the last step that was) and `alarmed` (the last
    checkpoint with a finding) are what a run online has; `row` is the digest of its last step's
    row: where it does not match the file any more, the run went back behind it and goes on as a new
    W&B run. `offline_copy` is the signature of what the offline copy holds.
    """

    ident: str
    next_step: int = 0
    row: str = ""
    evaluations: tuple[str, ...] = ()
    offline_copy: str = ""
    validated: int = -1
    alarmed: int = -1


@dataclass(frozen=True, slots=True)
class _Files:
    """What the run's folder has for W&B: rows of steps, names of evaluations, the last step that
    was validated, and the last checkpoint at which an alarm found something."""

    folder: Path
    rows: Sequence[Row]
    names: Sequence[str]
    validated: int
    alarmed: int

    @property
    def empty(self) -> bool:
        return not self.rows and not self.names


def track_steps(config: RunConfig) -> None:
    """Bring W&B up to the newest step; call it after a checkpoint has been recorded.

    Does nothing with `logging.wandb` off, and never raises for W&B's own failures: it warns once
    and leaves the rest to `track_run`.
    """
    _guarded(config, whole=False)


def track_run(config: RunConfig) -> None:
    """Bring W&B up to the run's files: steps, evaluations with their predictions, and summary.

    For the end of a run or of an evaluation. Does nothing where nothing is new; fails like
    `track_steps`.
    """
    _guarded(config, whole=True)


_gave_up: set[Path] = set()


def _guarded(config: RunConfig, *, whole: bool) -> None:
    mode = mode_of(os.environ)
    run_dir = config.run_dir
    if not config.logging.wandb or mode == "disabled" or (run_dir in _gave_up and not whole):
        return
    try:
        _bring_up_to_date(config, mode, whole=whole)
    except failures() as error:
        let_go_of_a_dead_service(error)
        if run_dir not in _gave_up:
            logger.warning(
                "W&B is not keeping up (%s: %s). The run goes on, its files are complete, and the "
                "next start tells W&B what is missing; --no-logging.wandb switches it off.",
                type(error).__name__,
                " ".join(str(error).split()),
            )
        _gave_up.add(run_dir)


def _bring_up_to_date(config: RunConfig, mode: Mode, *, whole: bool) -> None:
    files = _files(config.run_dir)
    state = _read_state(files)
    if mode == "offline" and not _is_fresh(files, state, whole=whole):
        _write_offline_copy(config, state, files, whole=whole)
    if mode == "online" and _news(files, state):
        _add_online(config, state, files)


def _files(run_dir: Path) -> _Files:
    return _Files(
        run_dir,
        read_metrics(run_dir),
        evaluation_names(run_dir),
        max((row.step for row in Validations(run_dir).rows()), default=-1),
        max((finding.checkpoint for finding in AlarmLog(run_dir).findings()), default=-1),
    )


def _add_online(config: RunConfig, state: _State, files: _Files) -> None:
    rows = [row for row in files.rows if row["step"] >= state.next_step]
    names = [name for name in files.names if name not in state.evaluations]
    # Before W&B hears of it: a run that is killed here goes on under the same id.
    _write_state(files.folder, state)
    with open_run(files.folder, "online", **_identity(config, state)) as run:
        newest = run.summary.get("train/step", -1)  # W&B hands it over when a run is continued
        rows = [row for row in rows if row["step"] > newest]
        names = [name for name in names if f"{name}/n" not in run.summary]
        validated = max(state.validated, run.summary.get("validation/step", -1))
        tell_validations(run, files.folder, after=validated)
        tell_alarms(run, files.folder, after=max(state.alarmed, run.summary.get(ALARMED, -1)))
        tell(run, files.folder, rows, names, tables=True)
    _write_state(files.folder, _told(state, files))


def _write_offline_copy(config: RunConfig, state: _State, files: _Files, *, whole: bool) -> None:
    folder = files.folder / "wandb"
    before = list(folder.glob("offline-run-*"))
    # Pictures that an earlier copy staged; the new one stages its own.
    shutil.rmtree(folder / "data", ignore_errors=True)
    with open_run(files.folder, "offline", **_identity(config, state)) as run:
        tell_validations(run, files.folder, after=-1)
        tell_alarms(run, files.folder, after=-1)
        tell(run, files.folder, files.rows, files.names, tables=whole)
    for old in before:
        shutil.rmtree(old, ignore_errors=True)
    _write_state(files.folder, replace(state, offline_copy=_signature(files, whole=whole)))


def _identity(config: RunConfig, state: _State) -> dict[str, Any]:
    return {
        "project": config.logging.wandb_project,
        "name": config.run_name,
        "ident": state.ident,
        "config": config_without_secrets(config),
    }


def _read_state(files: _Files) -> _State:
    """What W&B has been told; a new W&B run where that is nothing, or where the run went back."""
    try:
        kept: dict[str, Any] = read_object(files.folder / "wandb" / STATE_NAME) or {}
        kept["evaluations"] = tuple(kept["evaluations"])
        state = _State(**kept)
        if state.row == _row_digest(files.rows, state.next_step - 1):
            return state
    except (DataError, KeyError, TypeError):
        pass  # not there yet, or damaged: everything is told anew
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", files.folder.name)[:100]
    return _State(ident=f"{slug}-{secrets.token_hex(4)}")


def _told(state: _State, files: _Files) -> _State:
    last = max((row["step"] for row in files.rows), default=-1)
    return replace(
        state,
        next_step=last + 1,
        row=_row_digest(files.rows, last),
        evaluations=tuple(files.names),
        validated=files.validated,
        alarmed=files.alarmed,
    )


def _row_digest(rows: Sequence[Row], step: int) -> str:
    found = next((row for row in rows if row["step"] == step), None)
    return digest(found, 16) if found is not None else ""


def _write_state(run_dir: Path, state: _State) -> None:
    write_json(run_dir / "wandb" / STATE_NAME, asdict(state))


def _news(files: _Files, state: _State) -> bool:
    return (
        any(row["step"] >= state.next_step for row in files.rows)
        or files.validated > state.validated
        or files.alarmed > state.alarmed
        or bool(set(files.names) - set(state.evaluations))
    )


def _signature(files: _Files, *, whole: bool) -> str:
    """Of what an offline copy holds: equal where writing it again would change nothing."""
    run_dir = files.folder
    paths = [run_dir / "evaluations" / name / REPORT_NAME for name in files.names]
    present = [path for path in (*paths, run_dir / FILE_NAME) if path.exists()]
    parts = [(str(path.relative_to(run_dir)), path.stat().st_mtime_ns) for path in present]
    seen = [len(files.rows), files.rows[-1:], files.validated, files.alarmed]
    return digest([*seen, parts, whole], 16)


def _is_fresh(files: _Files, state: _State, *, whole: bool) -> bool:
    copies = list((files.folder / "wandb").glob("offline-run-*"))
    if not whole and copies:
        age = time.time() - max(path.stat().st_mtime for path in copies)
        if age < OFFLINE_INTERVAL_S:
            return True
    enough = {_signature(files, whole=has_tables) for has_tables in (True, whole)}
    return files.empty or (bool(copies) and state.offline_copy in enough)
