"""Opening W&B runs: quiet, inside the run folder, offline without a key.

wandb is imported when it is needed and not before: it costs half a second.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

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
