"""A run on W&B: steps, validations, and each evaluation's rates and predictions with pictures.

Everything comes from the run folder's files, so tracking can be late, repeated or broken without
harm to the run. Online, what is new is added to one W&B run that a resumed run continues; what W&B
has of it already, since a kill came before that was noted here, is not told again. Offline
copies cannot be continued (a later one with the same id replaces an earlier one when both are
synced), so the offline copy is always the whole run, written anew, in one folder that
`wandb sync` uploads.

What a run on W&B holds, told from the files of its folder: steps, validations, evaluations with
their predictions and pictures, and what the alarms found.

Opening W&B runs: quiet, inside the run folder, offline without a key.

wandb is imported when it is needed and not before: it costs half a second.
"""

import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from visual_r1.alarms import AlarmLog
from visual_r1.config import RunConfig
from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import REPORT_NAME, read_report
from visual_r1.evaluation.predictions import iterate_predictions
from visual_r1.hashing import digest
from visual_r1.report.summary import BASELINE, FILE_NAME, FINAL
from visual_r1.runs.folder import config_without_secrets
from visual_r1.runs.journal import Row, evaluation_names, read_metrics, read_object
from visual_r1.runs.validations import Validations
from visual_r1.storage import write_json

ALARMED = "alarms/checkpoint"
"""In the W&B run's summary: the checkpoint of the newest finding that was told."""

_RATES = (
    "accuracy", "format_rate", "visual_grounding_rate", "blind_accuracy", "sampled_accuracy",
    "pass_at_k", "mean_response_tokens", "truncated", "gave_up", "n",
)  # fmt: skip
_TABLE_COLUMNS = (
    "id", "family", "question", "answer", "response", "extracted", "verdict", "blind_response",
    "blind_correct", "sampled_correct", "k",
)  # fmt: skip


def tell(
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


def tell_validations(run: Any, run_dir: Path, after: int) -> None:
    """Log each validation of a checkpoint later than step `after`."""
    run.define_metric("step", hidden=True)
    run.define_metric("validation/*", step_metric="step")
    for row in Validations(run_dir).rows():
        if row.step > after:
            found = {f"validation/{key}": v for key, v in asdict(row).items() if _is_number(v)}
            run.log({"step": row.step, **found})


def tell_alarms(run: Any, run_dir: Path, after: int) -> None:
    """An alert for each finding later than the checkpoint `after`: W&B sends it by mail or Slack,
    as its user has set it."""
    for finding in AlarmLog(run_dir).findings():
        if finding.checkpoint > after:
            run.alert(
                title=f"{run_dir.name}: alarm {finding.alarm} at step {finding.checkpoint}",
                text=finding.sentence,
                level="ERROR" if finding.action == "pause" else "WARN",
                wait_duration=0,
            )
            run.summary.update(
                {f"alarms/{finding.alarm}": finding.checkpoint, ALARMED: finding.checkpoint}
            )


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


Mode = Literal["online", "offline", "disabled"]

# W&B being down must not hold up training: this long it may take to answer at the start.
_INIT_LIMIT_S = 30.0


def mode_of(environ: Mapping[str, str]) -> Mode:
    """WANDB_MODE where it is set, else online with WANDB_API_KEY and offline without."""
    asked = environ.get("WANDB_MODE", "").lower()
    if asked in ("disabled", "dryrun", "offline"):
        return "disabled" if asked == "disabled" else "offline"
    return "online" if environ.get("WANDB_API_KEY") else "offline"


def failures() -> tuple[type[Exception], ...]:
    """What wandb raises when its service, its server, the network or the disk fails, or where one
    of its variables (WANDB_MODE, say) holds what it does not know.
    """
    import wandb
    from pydantic import ValidationError
    from wandb.sdk.lib.service import (  # pyright: ignore[reportMissingTypeStubs]
        service_connection,
        service_token,
    )
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
    from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

    return (
        wandb.Error,
        service_connection.WandbApiFailedError,
        service_connection.WandbAttachFailedError,
        service_token.WandbServiceConnectionError,
        HandleAbandonedError,
        MailboxClosedError,
        ServerResponseError,
        ValidationError,
        TimeoutError,
        OSError,
    )


def let_go_of_a_dead_service(error: Exception) -> None:
    """Forget wandb's helper process where `error` says that it died; the next run starts another.

    Else every later call fails too, and the program ends with a traceback.
    """
    import wandb
    from wandb.sdk.mailbox import MailboxClosedError

    if not isinstance(error, (MailboxClosedError, ConnectionError)):
        return
    # It says goodbye to the dead one first, and would end this process with the status of that.
    with suppress(*failures(), SystemExit):
        wandb.teardown()


@contextmanager
def open_run(
    folder: Path, mode: Mode, *, project: str, name: str, ident: str, config: Mapping[str, Any]
) -> Generator[Any]:
    """A W&B run whose files lie in `folder`/wandb; it is finished when the block ends.

    Online, a run of the same `ident` is continued. Nothing is printed, and neither the console nor
    the machine is recorded.
    """
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        init_timeout=_INIT_LIMIT_S,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    with _quiet_files_in(folder / "wandb"):
        run: Any = wandb.init(
            dir=folder,
            mode=mode,
            project=project,
            name=name,
            id=ident,
            config=dict(config),
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=settings,
        )
        ended = False
        try:
            yield run
            ended = True
        finally:
            run.finish(exit_code=0 if ended else 1)


@contextmanager
def _quiet_files_in(folder: Path) -> Generator[None]:
    """Keep the pictures of tables, which wandb stages in the home folder, in `folder`.

    wandb has no setting for it but these variables, and announces the key it found unless one says
    otherwise; those that the user has set stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_SILENT": "true",
    }
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


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
