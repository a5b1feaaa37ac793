"""How W&B is set, by its own chain of settings, and a run of its library that cannot hang.

W&B's library talks to a process of its own, `wandb-core`. Whoever waits for that one waits for ever
when it stands still, so it is watched meanwhile, and killed: the wait then ends in an exception.
"""

import atexit
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError
from visual_r1.liveness import Progress, children_named
from visual_r1.runs.folder import config_without_secrets
from visual_r1.secrecy import keep_secret

Mode = Literal["online", "offline", "disabled"]

# W&B being down must not hold up training: this long it may take to answer at the start.
INIT_LIMIT_S = 30.0
# And so long its process may do nothing while it is waited for: it tries again and again.
STANDS_STILL_S = 45.0
EXIT_STANDS_STILL_S = 10.0
STOP_ASKED_S = 10
_LOOK_EVERY_S = 1.0
_SERVICE = "wandb-core"


class Chosen(NamedTuple):
    """Whether W&B is told, and which setting of its chain says so; no secret is in it."""

    mode: Mode
    source: str


def chosen_mode(run_dir: Path | None = None) -> Chosen:
    """What W&B's own settings ask for: WANDB_MODE or `mode` of a settings file; where neither is
    set, online with a key (WANDB_API_KEY, .netrc, a settings file), offline without.

    Raises `ConfigError` where it is to be online and there is no key: W&B would ask at a terminal,
    and wait. So it does where a setting cannot be.
    """
    # Before its library is loaded, which takes a second.
    if os.environ.get("WANDB_MODE", "").lower() == "disabled":
        return Chosen("disabled", "WANDB_MODE")
    wandb = load_wandb(run_dir)
    from wandb.sdk.lib import wbauth  # pyright: ignore[reportMissingTypeStubs]

    settings = wandb.Settings()
    folder = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    settings.settings_system = str(folder / "settings")
    try:
        # It says where it found its settings unless one says otherwise.
        with _unless_set(WANDB_SILENT="true"):
            settings.update_from_system_settings()
            settings.update_from_env_vars(dict(os.environ))
            key = settings.api_key or wbauth.authenticate_session(
                host=settings.base_url, source="", prompt=False, update_session=False
            )
            # Of a file it comes in an object of W&B's.
            keep_secret(key if isinstance(key, str) else getattr(key, "api_key", ""))
    except ValidationError as error:
        # Without the value: it may be a key.
        wrong = "; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())
        raise ConfigError(
            f"A setting of W&B cannot be used: {wrong}. It comes from a variable WANDB_... or "
            f"{settings.settings_system}; mend or remove it."
        ) from error
    where = (
        "WANDB_API_KEY"
        if os.environ.get("WANDB_API_KEY")
        else "an API key of W&B's settings"
        if settings.api_key
        else f".netrc ({os.environ.get('NETRC') or '~/.netrc'})"
    )
    if "mode" not in settings.model_fields_set:
        if key:
            return Chosen("online", f"{where} for {settings.base_url}")
        return Chosen("offline", f"no key for {settings.base_url} in WANDB_API_KEY or .netrc")
    source = "WANDB_MODE" if "WANDB_MODE" in os.environ else "W&B's settings file"
    if settings.mode == "disabled":
        return Chosen("disabled", source)
    if settings.mode in ("offline", "dryrun"):
        return Chosen("offline", source)
    if not key:
        raise ConfigError(
            f"{source} asks for online and there is no key for {settings.base_url}: `wandb login` "
            "stores one, and WANDB_MODE=offline does without."
        )
    return Chosen("online", f"{source}, with {where}")


_scratch: list[Path] = []
"""The folder of this process for what W&B's library stages; another one where it was removed."""


def load_wandb(run_dir: Path | None) -> Any:
    """W&B's library, whose own temporary folders are in the run's folder from then on.

    It makes them where it is imported and removes them at a regular end. What a killed process has
    left is removed by the next one.
    """
    if run_dir is not None and run_dir.is_dir():
        for left in run_dir.glob("wandb/scratch-*"):
            if left not in _scratch:
                shutil.rmtree(left, ignore_errors=True)
        if "wandb" not in sys.modules:
            before, tempfile.tempdir = tempfile.tempdir, str(scratch_folder(run_dir))
            try:
                import wandb
            finally:
                tempfile.tempdir = before
    import wandb

    return wandb


def scratch_folder(run_dir: Path) -> Path:
    """Where to put what is handed to W&B's library as files."""
    if not any(path.is_dir() for path in _scratch):
        (run_dir / "wandb").mkdir(exist_ok=True)
        _scratch.append(Path(tempfile.mkdtemp(prefix="scratch-", dir=run_dir / "wandb")))
        # Before W&B's own clean-up is registered, so that it comes after that.
        atexit.register(shutil.rmtree, _scratch[-1], ignore_errors=True)
    return next(path for path in _scratch if path.is_dir())


@contextmanager
def open_wandb_run(config: RunConfig, mode: Mode, ident: str) -> Generator[Any]:
    """A W&B run whose files lie in wandb/ of the run's folder; it is finished when the block ends.

    Online, a run of the same `ident` is continued. Nothing is printed, and neither the console nor
    the machine is recorded.
    """
    run = begin_wandb_run(config, mode, ident)
    ended = False
    try:
        with while_told(config):
            yield run
        ended = True
    finally:
        end_wandb_run(config, run, failed=not ended)


def begin_wandb_run(config: RunConfig, mode: Mode, ident: str) -> Any:
    """The same, to be ended by `end_wandb_run`; what it is told in between, `while_told`."""
    wandb = load_wandb(config.run_dir)
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        init_timeout=INIT_LIMIT_S,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        stop_fn=_not_now,
    )
    (config.run_dir / "wandb").mkdir(parents=True, exist_ok=True)
    with while_told(config):
        return wandb.init(
            dir=config.run_dir,
            mode=mode,
            project=config.logging.wandb_project,
            name=config.run_name,
            id=ident,
            config=config_without_secrets(config),
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=settings,
        )


def _not_now() -> None:
    """In place of W&B's own answer to its "Stop run" button: it would interrupt the main thread, in
    the middle of whatever that does. A run is asked after at its checkpoints, see `is_stopped`."""


def is_stopped(project: str, entity: str, ident: str) -> bool:
    """Whether a person has pressed "Stop run" on the page of that W&B run, and it still says so.

    Raises what W&B's library does.
    """
    from wandb.sdk.launch.api import LaunchApi  # pyright: ignore[reportMissingTypeStubs]

    return bool(LaunchApi(timeout=STOP_ASKED_S).check_stop_requested(project, entity, ident))


def end_wandb_run(config: RunConfig, run: Any, *, failed: bool = False) -> None:
    """Finish it: all that it was told is in its files then, or online."""
    with while_told(config):
        run.finish(exit_code=int(failed))


@contextmanager
def while_told(config: RunConfig) -> Generator[None]:
    """For a block that tells W&B's library something of the run: it cannot hang, and is quiet.

    The library stages the pictures of tables in the home folder, and announces the key that it
    found; it has no settings for that but these variables.
    """
    folder = config.run_dir / "wandb"
    with (
        _unless_set(
            WANDB_DATA_DIR=str(folder / "data"),
            WANDB_CACHE_DIR=str(folder / "cache"),
            WANDB_SILENT="true",
        ),
        _watched(),
    ):
        yield


def serves() -> bool:
    """Whether W&B's process is there."""
    return bool(children_named(_SERVICE))


@contextmanager
def _unless_set(**wanted: str) -> Generator[None]:
    """These variables for the block; those that the user has set stay."""
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


class _Watch(threading.Thread):
    """Kills W&B's process where it stands still for `limit_s`; None: nobody waits for it."""

    def __init__(self) -> None:
        super().__init__(name="wandb-core", daemon=True)
        self.limit_s: float | None = None

    def run(self) -> None:
        """Look once a second, to the end of this process."""
        progress: Progress | None = None
        while True:
            time.sleep(_LOOK_EVERY_S)
            service = next(iter(children_named(_SERVICE)), None)
            limit_s = self.limit_s
            if service is None or limit_s is None:
                progress = None
            elif progress is None:
                progress = Progress(service.pid)
            elif progress.seconds_without() > limit_s:
                service.kill()

    def until_the_exit(self) -> None:
        """W&B's library waits for its process once more, when this one exits."""
        self.limit_s = EXIT_STANDS_STILL_S


_watch: list[_Watch] = []


@contextmanager
def _watched() -> Generator[None]:
    """Whatever waits for W&B's process in the block does not wait for ever."""
    if not _watch:
        _watch.append(_Watch())
        _watch[0].start()
    _watch[0].limit_s = STANDS_STILL_S
    try:
        yield
    finally:
        _watch[0].limit_s = None
        # Anew each time: what is registered last comes first, and W&B registers its wait as well.
        atexit.unregister(_watch[0].until_the_exit)
        atexit.register(_watch[0].until_the_exit)


def let_go_of_dead_service() -> None:
    """Forget W&B's process where it has ended; the next run of its library starts another.

    Else every later call fails too, and the program ends with a traceback.
    """
    if "wandb" not in sys.modules or children_named(_SERVICE):
        return
    import wandb

    # It says goodbye to the dead one first, and would end this process with the status of that.
    with suppress(Exception, SystemExit):
        wandb.teardown()
