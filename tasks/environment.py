"""How Prefect behaves here; must be called before Prefect is imported.

Each value is a default: what the user, a profile or a worker has set stays.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import httpx

from visual_r1.errors import ConfigError
from visual_r1.printing import CommandParser

PROBE_SECONDS = 2.5  # for connecting and for reading, one after the other


def settle_prefect(output_dir: Path | None = None) -> None:
    """Give Prefect a home of its own under `.visual-r1/`, and keep it quiet and private.

    That folder is in `output_dir`, by default in the one that the command line names.
    The home matters: an older Prefect fails on the database of a newer one. With `PREFECT_API_URL`
    set, the server is somebody else's, and its home and settings are left alone.
    """
    state_dir = (output_dir or _output_dir()).absolute() / ".visual-r1"
    defaults = {
        "PREFECT_LOCAL_STORAGE_PATH": str(state_dir / "results"),
        "DO_NOT_TRACK": "1",
        # One sentence tells the user what went wrong; tracebacks go to the run's log.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }
    if "PREFECT_API_URL" not in os.environ:
        defaults |= {
            "PREFECT_HOME": str(state_dir / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if "PREFECT_HOME" in defaults:
        # Prefect warns about each folder above its home that is missing.
        try:
            Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
        except OSError:
            # The command itself says so a moment later, in a sentence.
            warnings.filterwarnings("ignore", message="Failed to create the Prefect home")


def require_prefect_server(environ: Mapping[str, str] = os.environ) -> None:
    """Raise `ConfigError` where `PREFECT_API_URL` names a server that nobody answers for.

    Prefect itself would end in a traceback. Any answer will do: what it says is for Prefect.
    """
    url = environ.get("PREFECT_API_URL")
    if not url:
        return
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=PROBE_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # Its module imports the SDK, which a mistyped flag should not wait for.
        from visual_r1.backend.endpoint import without_secrets

        raise ConfigError(
            f"No Prefect server answers at PREFECT_API_URL {without_secrets(url)!r} "
            f"({error}): start it, or unset PREFECT_API_URL for a temporary one."
        ) from error


def _output_dir() -> Path:
    parser = CommandParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--output-dir", "--output_dir", type=Path, default=Path())
    try:
        return parser.parse_known_args(sys.argv[1:])[0].output_dir.absolute()
    except argparse.ArgumentError:
        return Path().absolute()  # the command itself says what is missing
