"""A run on W&B: steps, validations, alarms, and each evaluation's rates and predictions.

Everything comes from the run folder's files, so tracking can be late, repeated or broken without
harm to the run. Online, what is new is added to one W&B run that a resumed run continues; what W&B
has of it already, since a kill came before that was noted here, is not told again. Offline, see
`wandb_copy`.

wandb is imported when it is needed and not before: it costs half a second.
"""

import re
import secrets
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter

from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError
from visual_r1.printing import open_logger
from visual_r1.report import wandb_copy
from visual_r1.report.wandb_service import (
    chosen_mode,
    is_stopped,
    let_go_of_dead_service,
    open_wandb_run,
    while_told,
)
from visual_r1.report.wandb_telling import ALARMED, Told, contents_of, tell
from visual_r1.runs.journal import Journal
from visual_r1.storage import read_json, write_json

logger = open_logger(__name__)

STATE_NAME = "tracked.json"
_STORED = TypeAdapter(Told)


def track_steps(config: RunConfig) -> None:
    """Bring W&B up to the newest step; call it after a checkpoint has been recorded.

    Does nothing where W&B is not told, and never raises for W&B's own failures: it warns once
    and leaves the rest to `track_run`.
    """
    _track(config, whole=False)


def track_run(config: RunConfig) -> None:
    """Bring W&B up to the run's files: steps, evaluations with their predictions, and summary.

    For the end of a run or of an evaluation. Does nothing where nothing is new; fails like
    `track_steps`.
    """
    _track(config, whole=True)


def page_at_wandb(run_dir: Path) -> str | None:
    """The address of the run's page; None where W&B was told nothing online."""
    try:
        return read_json(run_dir / "wandb" / STATE_NAME, _STORED).url or None
    except (OSError, ValueError):  # damage is met by the next one who tells W&B something
        return None


_gave_up: set[Path] = set()


def _track(config: RunConfig, *, whole: bool) -> None:
    run_dir = config.run_dir
    if config.logging.told != "wandb" or (run_dir in _gave_up and not whole):
        return
    try:
        mode = chosen_mode(run_dir).mode
        if mode == "disabled":
            return
        told = _read_told(run_dir)
        if mode == "online":
            _add_online(config, told)
            return
        kept = wandb_copy.write_whole(config, told) if whole else wandb_copy.add(config, told)
        if kept is not None:
            _write_told(run_dir, kept)
    # One of the two places for this: nothing that tracks may end a run, whatever it raises. W&B
    # ends the process where its service ended with a status of its own.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        wandb_copy.forget(run_dir)
        let_go_of_dead_service()
        if run_dir not in _gave_up:
            said = " ".join(str(error).split())
            if not isinstance(error, ConfigError):  # a setting is the user's; all else is W&B's
                said = f"W&B is not keeping up ({type(error).__name__}: {said})."
            logger.warning(
                "%s The run goes on, its files are complete, and the next start tells W&B what is "
                "missing; --no-logging.wandb switches it off.",
                said,
            )
        _gave_up.add(run_dir)


def _read_told(run_dir: Path) -> Told:
    """What W&B has been told; a new W&B run where that is nothing, or where the run went back."""
    state = run_dir / "wandb" / STATE_NAME
    try:
        told = read_json(state, _STORED)
        if told.knows(Journal(run_dir)):
            return told
    except FileNotFoundError:
        pass
    except ValueError as error:
        logger.warning("%s is damaged (%s): W&B is told all of it as a new run.", state, error)
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_dir.name)[:100]
    return Told(ident=f"{slug}-{secrets.token_hex(4)}")


def _write_told(run_dir: Path, told: Told) -> None:
    write_json(run_dir / "wandb" / STATE_NAME, asdict(told))


def _add_online(config: RunConfig, told: Told) -> None:
    there = contents_of(config.run_dir, told)
    if there.since(told).is_empty:
        return
    # Before W&B hears of it: a run that is killed here goes on under the same id.
    _write_told(there.folder, told)
    with open_wandb_run(config, "online", told.ident) as run:
        has = run.summary  # W&B hands it over when a run is continued
        heard = replace(
            told,
            next_step=max(told.next_step, has.get("train/step", -1) + 1),
            evaluations=(
                *told.evaluations,
                *(name for name in there.evaluations if f"{name}/n" in has),
            ),
            validated=max(told.validated, has.get("validation/step", -1)),
            alarmed=max(told.alarmed, has.get(ALARMED, -1)),
        )
        tell(run, there.since(heard), there.next_step, tables=True)
        url = str(run.url or "")
        place = (run.project, run.entity, run.id)
    now = replace(there.all_of(told), url=url)
    _write_told(there.folder, now)
    with while_told(config):
        stopped = is_stopped(*place)
    if told.stopped and not stopped:
        _write_told(there.folder, replace(now, stopped=False))
    # W&B may go on saying so when the run has been started again. That it was heard is noted when
    # it is heeded: a run that is killed before is asked to stop still.
    if stopped and not told.stopped:
        _asked.add(config.run_dir)


_asked: set[Path] = set()
"""The runs that a person has asked W&B to stop, until somebody heeds it."""


def stop_asked(run_dir: Path) -> bool:
    """Whether "Stop run" was pressed on the run's page at W&B; once for each time that it was."""
    if run_dir not in _asked:
        return False
    _asked.discard(run_dir)
    # Where it cannot be noted, the run stops all the same, and once more when it is started again.
    with suppress(OSError, ValueError):
        told = read_json(run_dir / "wandb" / STATE_NAME, _STORED)
        _write_told(run_dir, replace(told, stopped=True))
    return True
