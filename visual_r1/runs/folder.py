"""The folder of one run: one configuration, one process at a time.

`config.json` holds the resolved configuration, and a start with another is refused. What makes the
run besides it are the user's own files, a reward function, a loss and prompt templates: their names
are part of the configuration, what they hold is not. So the run keeps copies of those it began
with, and a start with others is refused too. Modules that such a file imports are not compared.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from visual_r1.backend.endpoint import without_secrets
from visual_r1.config import RunConfig, apart
from visual_r1.errors import ConfigError, RunError, StorageError, VisualR1Error
from visual_r1.hashing import file_digest
from visual_r1.opening import read_file
from visual_r1.own_code import LOSS, own_function
from visual_r1.printing import open_logger
from visual_r1.runs.config_file import CONFIG_FILE, read_config
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.made_with import MADE_WITH, note_made_with
from visual_r1.runs.process import LOCK, OWNER, forget_ending, note_ending, owner_in
from visual_r1.storage import (
    clear_leftovers,
    put_aside,
    read_sealed,
    replaced_whole,
    write_json,
    write_text,
)

logger = open_logger(__name__)

# Copies of the user's files.
CUSTOM_REWARD = "custom_reward.py"
OWN_LOSS = "own_loss.py"
PROMPT_TEMPLATE = "prompt_template.txt"
SECOND_PASS_TEMPLATE = "second_pass_template.txt"
QUESTION_ONLY_TEMPLATE = "question_only_template.txt"
COPIES = (CUSTOM_REWARD, OWN_LOSS, PROMPT_TEMPLATE, SECOND_PASS_TEMPLATE, QUESTION_ONLY_TEMPLATE)


@contextmanager
def open_run_folder(config: RunConfig, *, trains: bool = True) -> Generator[Path]:
    """Yield `config.run_dir`, made if need be, for this process alone.

    `config.json` in it then holds the resolved configuration, without secrets; where the run is
    only looked at and not `trains`, one that is there stays: what is asked of it once, with other
    samples, is not what its next start asks. Raises `RunError`
    when another process uses the folder, or when it belongs to another configuration: then with
    the names of the keys that differ and the ways out. What was there stays. The lock goes with
    the process, however it ends. Where an error ends the block before anything was done, the folder
    goes as well: a start that failed leaves none.
    """
    run_dir = config.run_dir
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"could not make the run folder {run_dir}: {error.strerror or error}. "
            "Choose another place with --output-dir."
        ) from error
    with only_process(run_dir):
        require_same_config(run_dir, config)
        if trains or not (run_dir / CONFIG_FILE).exists():
            _say_what_came_since(run_dir, config)
            _sign(run_dir, config)
            write_json(run_dir / CONFIG_FILE, config_without_secrets(config))
        if trains:
            forget_ending(run_dir)
            note_made_with(run_dir)
        try:
            yield run_dir
        except BaseException as error:
            if isinstance(error, VisualR1Error):
                _remove_unused(run_dir)
            if trains:
                note_ending(run_dir, error)
            raise


def _remove_unused(run_dir: Path) -> None:
    """Remove the folder of a run of which there is nothing but its configuration."""
    made = {CONFIG_FILE, MADE_WITH, OWNER, LOCK}
    # A folder that cannot be removed harms nobody.
    with suppress(OSError):
        if {path.name for path in run_dir.iterdir()} <= made:
            for name in made:
                (run_dir / name).unlink(missing_ok=True)
            run_dir.rmdir()
            run_dir.parent.rmdir()  # where no other run is


@contextmanager
def only_process(run_dir: Path) -> Generator[None]:
    """Hold the run's folder for this process alone; raises `RunError` where another has it.

    Temporary files that a killed process left in it are removed.
    """
    owner = run_dir / OWNER
    lock = FileLock(run_dir / LOCK)
    try:
        # Who looks whether it is held has it for a moment, see `liveness.is_locked`.
        lock.acquire(timeout=0.2, poll_interval=0.02)
    except Timeout as error:
        raise RunError(
            f"{run_dir} is in use by another process (pid {owner_in(owner)}): wait until it ends, "
            "or choose another --run.name."
        ) from error
    except OSError as error:
        raise StorageError(
            f"could not lock {run_dir}: {error.strerror or error}. "
            "Choose another place with --output-dir."
        ) from error
    try:
        clear_leftovers(run_dir)
        write_text(owner, f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def require_same_config(run_dir: Path, config: RunConfig) -> None:
    """Raise `RunError` when the folder's configuration differs in what makes the run.

    A folder in which nothing was done yet (its first start found a missing key, say) has no
    configuration to protect: the user may mend the command and keep the name. A file that is
    damaged is put aside where the ledger knows the configuration.
    """
    try:
        stored = read_config(run_dir)
    except RunError as error:
        if not _is_that_of_the_ledger(run_dir, config):
            raise
        aside = put_aside(run_dir / CONFIG_FILE)
        logger.warning(
            "%s It was moved to %s: by the ledger its run had this configuration.", error, aside
        )
        return
    has_results = any(
        path.name != CONFIG_FILE and not path.name.startswith(".") for path in run_dir.iterdir()
    )
    if stored is None or not has_results:
        return
    if (wrong := fault_by_ledger(run_dir, stored)) and _is_that_of_the_ledger(run_dir, config):
        aside = put_aside(run_dir / CONFIG_FILE)
        logger.warning(
            "%s %s; it was moved to %s, and written again.", run_dir / CONFIG_FILE, wrong, aside
        )
        return
    if differs := apart(config.identity(), stored.identity()):
        raise RunError(
            f"{run_dir} belongs to another configuration: {differs}. "
            "Set them back to go on with that run, or choose another --run.name for this one."
        )


def _sign(run_dir: Path, config: RunConfig) -> None:
    """Let the ledger know the configuration by a digest in which the evaluation has no part.

    Only where that changes: the rows of an older version hold one in which it has, and else nobody
    could tell any more that `config.json` is theirs.
    """
    stored, ledger = read_config(run_dir), Ledger(run_dir)
    rows = ledger.read().sound
    if not rows or stored is None:
        return
    signed = rows[-1].row.config_digest
    if stored.has_digest(signed) and not config.has_digest(signed):
        ledger.sign(config.digest())


def _say_what_came_since(run_dir: Path, config: RunConfig) -> None:
    """Once, before the configuration is written again: what a run from before it is trained by."""
    rows, second = Ledger(run_dir).read().sound, config.second_pass
    if not (rows and rows[-1].row.step < config.train.steps and second.enabled):
        return
    try:
        stored: Any = read_sealed(run_dir / CONFIG_FILE).content
        is_older = "moved_numbers" not in stored["second_pass"]
    except (OSError, ValueError, LookupError, TypeError):  # none that says so
        return
    if is_older and second.moved_numbers:
        logger.warning(
            "%s was begun before second_pass.named_by and second_pass.moved_numbers: from step %d "
            "on its rewards go by them too, so bonuses before and after are not the same measure.",
            *(run_dir, rows[-1].row.step),
        )


def fault_by_ledger(run_dir: Path, stored: RunConfig) -> str:
    """What is wrong with a configuration that can be read: it may be another run's, or edited."""
    rows = Ledger(run_dir).read().sound
    if not rows or stored.has_digest(then := rows[-1].row.config_digest):
        return ""
    return (
        f"is not what the run was made with: its digest is {stored.digest()}, and the ledger has "
        f"{then}"
    )


def _is_that_of_the_ledger(run_dir: Path, config: RunConfig) -> bool:
    rows = Ledger(run_dir).read().sound
    return bool(rows) and config.has_digest(rows[-1].row.config_digest)


def config_of_run(run_dir: Path, steps: int | None = None) -> RunConfig:
    """The configuration to go on with in `run_dir`, wherever the folder has been moved to.

    `steps` asks for more steps than the run was started with. Raises `RunError` where the folder
    holds no run, or the configuration of another.
    """
    stored = read_config(run_dir)
    if stored is None or run_dir.absolute().parent.name != "runs":
        raise RunError(
            f"{run_dir} is no run's folder: it should be one of those under runs/, with a "
            f"{CONFIG_FILE} in it."
        )
    if wrong := fault_by_ledger(run_dir, stored):
        raise RunError(
            f"{run_dir / CONFIG_FILE} {wrong}: put it back, or go on with the command that began "
            "the run, which writes it again."
        )
    wanted = {"resume_from_step": None} | ({} if steps is None else {"steps": steps})
    return stored.model_copy(
        update={
            "output_dir": run_dir.absolute().parents[1],
            "run": stored.run.model_copy(update={"name": run_dir.absolute().name}),
            "train": stored.train.model_copy(update=wanted),
        }
    )


def config_without_secrets(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration, JSON-able; a password in the server's URL is left out."""
    values = config.model_dump(mode="json")
    if config.backend.base_url:
        values["backend"]["base_url"] = without_secrets(config.backend.base_url)
    return values


def require_same_files(config: RunConfig) -> None:
    """Raise `RunError` where a file of the user's is another than the run's copy of it.

    Where there is no copy there is nothing to compare: removing it is how to go on all the same. A
    copy that is damaged is put aside where the user's file is the one that was copied.
    """
    _require_same(config, _files_of_the_user(config))


def require_same_templates(config: RunConfig) -> None:
    """The same of the prompt templates alone, which is what an evaluation asks with."""
    _require_same(config, _templates_of_the_user(config))


def _require_same(config: RunConfig, files: Mapping[str, Path]) -> None:
    copied = Ledger(config.run_dir).digests()
    for name, source in files.items():
        copy = config.run_dir / name
        if not copy.exists() or read_file(copy) == read_file(source):
            continue
        if copied.get(name) == file_digest(source):
            aside = put_aside(copy)
            logger.warning(
                "%s is damaged and was moved to %s; %s is as it was.", copy, aside, source
            )
            continue
        raise RunError(
            f"{source} has changed since {config.run_dir} began with it, and with it this is "
            f"another run: put back what {copy} holds, choose another --run.name, or remove "
            f"{copy} to go on with the new one."
        )


def asks_alike(run_dir: Path, config: RunConfig) -> bool:
    """Whether the run in `run_dir` shows a problem to its policy as one of `config` does: in so
    many pixels, and by a template that says the same."""
    from visual_r1.prompts.templates import load_template

    try:
        stored, copy = read_config(run_dir), run_dir / PROMPT_TEMPLATE
        if stored is None or stored.model.max_pixels != config.model.max_pixels:
            return False
        theirs = copy if copy.exists() else load_template(stored.prompt.template).path
        return file_digest(theirs) == file_digest(load_template(config.prompt.template).path)
    except (ConfigError, RunError):  # damaged, or a template that is gone: nobody can tell
        return False


def copies(run_dir: Path) -> list[str]:
    """The names of the copies of the user's files that are there."""
    return [name for name in COPIES if (run_dir / name).is_file()]


def keep_files(config: RunConfig, run_dir: Path, *, anew: bool) -> None:
    """Copy the user's files into the run's folder, where there is no copy yet.

    `anew` says that the run begins here, so that older copies no longer count.
    """
    for name, source in _files_of_the_user(config).items():
        copy = run_dir / name
        if anew or not copy.exists():
            with replaced_whole(copy) as temporary:
                temporary.write_bytes(read_file(source))


def _files_of_the_user(config: RunConfig) -> dict[str, Path]:
    """By the names of their copies; what ships with the package is none."""
    # Here and not above, as of templates: who only reads a run's folder starts in no time.
    from visual_r1.rewards import load_custom

    custom = config.reward.custom
    own: dict[str, Path] = {}
    if custom is not None and (file := load_custom(custom).file) is not None:
        own[CUSTOM_REWARD] = file
    if ":" in config.train.loss and (file := own_function(config.train.loss, LOSS).file):
        own[OWN_LOSS] = file
    return own | _templates_of_the_user(config)


def _templates_of_the_user(config: RunConfig) -> dict[str, Path]:
    from visual_r1.prompts.templates import own_template

    second = config.second_pass
    found = {PROMPT_TEMPLATE: own_template(config.prompt.template)}
    if second.enabled:
        found[SECOND_PASS_TEMPLATE] = own_template(second.template)
        if second.minus_question_only:
            found[QUESTION_ONLY_TEMPLATE] = own_template(second.question_only_template)
    return {name: source for name, source in found.items() if source is not None}
