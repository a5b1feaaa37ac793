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
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from visual_r1.config import RunConfig
from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import REPORT_NAME, read_report
from visual_r1.evaluation.predictions import iterate_predictions
from visual_r1.evaluation.run_files import Row, evaluation_names, read_metrics, read_object
from visual_r1.evaluation.summary import BASELINE, FILE_NAME, FINAL
from visual_r1.evaluation.wandb_runs import (
    Mode,
    failures,
    let_go_of_a_dead_service,
    mode_of,
    open_run,
)
from visual_r1.hashing import digest
from visual_r1.rl.validations import Validations
from visual_r1.run_folder import without_secrets
from visual_r1.storage import write_json

logger = logging.getLogger(__name__)

STATE_NAME = "tracked.json"
# The offline copy is for later, so while a run trains it need not be fresh to the second.
OFFLINE_INTERVAL_S = 60.0

_RATES = (
    "accuracy", "format_rate", "visual_grounding_rate", "blind_accuracy", "sampled_accuracy",
    "pass_at_k", "mean_response_tokens", "truncated", "gave_up", "n",
)  # fmt: skip
_TABLE_COLUMNS = (
    "id", "family", "question", "answer", "response", "extracted", "verdict", "blind_response",
    "blind_correct", "sampled_correct", "k",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _State:
    """What W&B has been told.

    `next_step`, `row`, `evaluations` and `validated` (the last step that was) are what a run online
    has; `row` is the digest of its last step's row: where it does not match the file any more, the
    run went back behind it and goes on as a new W&B run. `offline_copy` is the signature of what
    the offline copy holds.
    """

    ident: str
    next_step: int = 0
    row: str = ""
    evaluations: tuple[str, ...] = ()
    offline_copy: str = ""
    validated: int = -1


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
    run_dir = config.run_dir
    rows, names = read_metrics(run_dir), evaluation_names(run_dir)
    state = _read_state(run_dir, rows)
    if mode == "offline" and not _is_fresh(run_dir, state, rows, names, whole=whole):
        _write_offline_copy(config, state, rows, names, whole=whole)
    if mode == "online" and _news(run_dir, state, rows, names):
        _add_online(config, state, rows, names)


def _add_online(
    config: RunConfig, state: _State, rows: Sequence[Row], names: Sequence[str]
) -> None:
    fresh_rows = [row for row in rows if row["step"] >= state.next_step]
    fresh_names = [name for name in names if name not in state.evaluations]
    # Before W&B hears of it: a run that is killed here goes on under the same id.
    _write_state(config.run_dir, state)
    with open_run(config.run_dir, "online", **_identity(config, state)) as run:
        newest = run.summary.get("train/step", -1)  # W&B hands it over when a run is continued
        fresh_rows = [row for row in fresh_rows if row["step"] > newest]
        fresh_names = [name for name in fresh_names if f"{name}/n" not in run.summary]
        validated = max(state.validated, run.summary.get("validation/step", -1))
        _tell_validations(run, config.run_dir, after=validated)
        _tell(run, config.run_dir, fresh_rows, fresh_names, tables=True)
    _write_state(config.run_dir, _told(config.run_dir, state, rows, names))


def _write_offline_copy(
    config: RunConfig, state: _State, rows: Sequence[Row], names: Sequence[str], *, whole: bool
) -> None:
    folder = config.run_dir / "wandb"
    before = list(folder.glob("offline-run-*"))
    # Pictures that an earlier copy staged; the new one stages its own.
    shutil.rmtree(folder / "data", ignore_errors=True)
    with open_run(config.run_dir, "offline", **_identity(config, state)) as run:
        _tell_validations(run, config.run_dir, after=-1)
        _tell(run, config.run_dir, rows, names, tables=whole)
    for old in before:
        shutil.rmtree(old, ignore_errors=True)
    copy = _signature(config.run_dir, rows, names, whole=whole)
    _write_state(config.run_dir, replace(state, offline_copy=copy))


def _identity(config: RunConfig, state: _State) -> dict[str, Any]:
    return {
        "project": config.logging.wandb_project,
        "name": config.run_name,
        "ident": state.ident,
        "config": without_secrets(config),
    }


def _tell(
    run: Any, run_dir: Path, rows: Sequence[Row], names: Sequence[str], *, tables: bool
) -> None:
    """Log evaluations of the start, then steps, then the other evaluations, in order of `step`."""
    run.define_metric("step", hidden=True)
    run.define_metric("train/*", step_metric="step")
    run.define_metric("evaluation/*", step_metric="step")
    if BASELINE in names:
        _tell_evaluation(run, run_dir, BASELINE, 0, tables=tables)
    for row in rows:
        values = {f"train/{key}": value for key, value in row.items() if _is_number(value)}
        run.log({"step": row["step"], **values})
    after = max((row["step"] for row in rows), default=-1) + 1
    for name in names:
        if name != BASELINE:
            _tell_evaluation(run, run_dir, name, after, tables=tables)
    summary = read_object(run_dir / FILE_NAME)
    if summary is not None:
        run.summary.update({k: v for k, v in summary.items() if _is_number(v) or k == "conclusion"})


def _tell_validations(run: Any, run_dir: Path, after: int) -> None:
    run.define_metric("step", hidden=True)
    run.define_metric("validation/*", step_metric="step")
    for row in Validations(run_dir).rows():
        if row.step > after:
            found = {f"validation/{key}": v for key, v in asdict(row).items() if _is_number(v)}
            run.log({"step": row.step, **found})


def _last_validated(run_dir: Path) -> int:
    return max((row.step for row in Validations(run_dir).rows()), default=-1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _tell_evaluation(run: Any, run_dir: Path, name: str, step: int, *, tables: bool) -> None:
    folder = run_dir / "evaluations" / name
    report = read_report(folder)
    found = {key: getattr(report, key) for key in _RATES}
    rates = {key: value for key, value in found.items() if value is not None}
    told: dict[str, Any] = {"step": step}
    if name in (BASELINE, FINAL):  # two points of one curve
        told.update({f"evaluation/{key}": value for key, value in rates.items()})
    with tempfile.TemporaryDirectory() as pictures:
        if tables:
            told[f"{name}/predictions"] = _table(folder, Path(pictures))
        run.log(told)
    # Last: where it is there, the rest has been told.
    run.summary.update({f"{name}/{key}": value for key, value in rates.items()})


def _table(folder: Path, pictures: Path) -> Any:
    """The predictions with their pictures, a row a problem, an image column a picture.

    Pictures go through files: wandb then copies them as they are, where it would decode and encode
    them otherwise.
    """
    import wandb

    rows = list(iterate_predictions(folder, [*_TABLE_COLUMNS, "images"]))
    most = max((len(row["images"]) for row in rows), default=0)
    headings = ["image" if i == 0 else f"image {i + 1}" for i in range(most)]
    table = wandb.Table(columns=[_TABLE_COLUMNS[0], *headings, *_TABLE_COLUMNS[1:]])
    for index, row in enumerate(rows):
        images = [
            wandb.Image(str(_as_file(image["bytes"], pictures / f"{index}-{i}")))
            for i, image in enumerate(row["images"])
        ]
        padding = [None] * (most - len(images))
        table.add_data(row["id"], *images, *padding, *(row[c] for c in _TABLE_COLUMNS[1:]))
    return table


def _as_file(image: bytes, stem: Path) -> Path:
    path = stem.with_suffix(".png" if image.startswith(b"\x89PNG") else ".jpg")
    path.write_bytes(image)
    return path


def _read_state(run_dir: Path, rows: Sequence[Row]) -> _State:
    """What W&B has been told; a new W&B run where that is nothing, or where the run went back."""
    try:
        kept: dict[str, Any] = read_object(run_dir / "wandb" / STATE_NAME) or {}
        kept["evaluations"] = tuple(kept["evaluations"])
        state = _State(**kept)
        if state.row == _row_digest(rows, state.next_step - 1):
            return state
    except (DataError, KeyError, TypeError):
        pass  # not there yet, or damaged: everything is told anew
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_dir.name)[:100]
    return _State(ident=f"{slug}-{secrets.token_hex(4)}")


def _told(run_dir: Path, state: _State, rows: Sequence[Row], names: Sequence[str]) -> _State:
    last = max((row["step"] for row in rows), default=-1)
    return replace(
        state,
        next_step=last + 1,
        row=_row_digest(rows, last),
        evaluations=tuple(names),
        validated=_last_validated(run_dir),
    )


def _row_digest(rows: Sequence[Row], step: int) -> str:
    found = next((row for row in rows if row["step"] == step), None)
    return digest(found, 16) if found is not None else ""


def _write_state(run_dir: Path, state: _State) -> None:
    write_json(run_dir / "wandb" / STATE_NAME, asdict(state))


def _news(run_dir: Path, state: _State, rows: Sequence[Row], names: Sequence[str]) -> bool:
    new_steps = any(row["step"] >= state.next_step for row in rows)
    return (
        new_steps
        or _last_validated(run_dir) > state.validated
        or bool(set(names) - set(state.evaluations))
    )


def _signature(run_dir: Path, rows: Sequence[Row], names: Sequence[str], *, whole: bool) -> str:
    """Of what an offline copy holds: equal where writing it again would change nothing."""
    files = [run_dir / "evaluations" / name / REPORT_NAME for name in names]
    present = [path for path in (*files, run_dir / FILE_NAME) if path.exists()]
    parts = [(str(path.relative_to(run_dir)), path.stat().st_mtime_ns) for path in present]
    return digest([len(rows), rows[-1:], _last_validated(run_dir), parts, whole], 16)


def _is_fresh(
    run_dir: Path, state: _State, rows: Sequence[Row], names: Sequence[str], *, whole: bool
) -> bool:
    copies = list((run_dir / "wandb").glob("offline-run-*"))
    if not whole and copies:
        age = time.time() - max(path.stat().st_mtime for path in copies)
        if age < OFFLINE_INTERVAL_S:
            return True
    nothing = not rows and not names
    enough = {_signature(run_dir, rows, names, whole=has_tables) for has_tables in (True, whole)}
    return nothing or (bool(copies) and state.offline_copy in enough)
