"""The project's folder, and the Prefect server that its commands work with."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tasks.environment import require_prefect_server, settle_prefect, users_settings
from visual_r1.backend.endpoint import without_secrets
from visual_r1.errors import ConfigError, VisualR1Error

DEPLOYMENTS = Path("deployments")
PREFECT_FILE = DEPLOYMENTS / "prefect.yaml"


def require_project(root: Path) -> None:
    """Raise `ConfigError` where `root` is not the project's folder."""
    if not (root / PREFECT_FILE).is_file():
        raise ConfigError(
            f"{root} has no {PREFECT_FILE}: give this command in the project's own folder."
        )


def use_server(root: Path, url: str | None = None) -> str:
    """Let Prefect's client in this process talk to the server at `url`, by default to the one that
    Prefect's settings name; its address.

    Raises:
        ConfigError: no server is named, or nobody answers there.
    """
    if url is None:
        url = users_settings(root / ".visual-r1" / "prefect").api.url
    if url is None:
        raise ConfigError(
            "No Prefect server is set: `make up` starts one on this machine, and PREFECT_API_URL "
            "names another."
        )
    os.environ |= {"PREFECT_API_URL": url, "PWD": str(root)}
    settle_prefect(root)
    require_prefect_server()
    return url


@contextmanager
def server_failures(url: str) -> Generator[None]:
    """What Prefect's client raises within becomes a `ConfigError` in a sentence."""
    # Its module imports Prefect, which is not needed to say what is wrong before.
    from tasks.outcome import SERVER_FAILURES

    try:
        yield
    except VisualR1Error:
        raise
    except SERVER_FAILURES as error:
        raise ConfigError(
            f"The Prefect server at {without_secrets(url)} failed: {type(error).__name__}: {error}."
        ) from error
