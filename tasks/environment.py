"""How Prefect behaves here; must be called before Prefect is imported.

Each value is a default: what the user, a profile or a worker has set stays.
"""

import argparse
import os
import sys
from pathlib import Path


def settle_prefect() -> None:
    """Give Prefect a home of its own under `.visual-r1/`, and keep it quiet and private.

    The home matters: an older Prefect fails on the database of a newer one. With `PREFECT_API_URL`
    set, the server is somebody else's and only the results' place is set.
    """
    state_dir = _output_dir() / ".visual-r1"
    defaults = {
        "PREFECT_LOCAL_STORAGE_PATH": str(state_dir / "results"),
        "DO_NOT_TRACK": "1",
    }
    if "PREFECT_API_URL" not in os.environ:
        defaults |= {
            "PREFECT_HOME": str(state_dir / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
            # One sentence tells the user what went wrong; tracebacks go to the run's log.
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        }
        # Prefect warns about each folder above its home that is missing.
        (state_dir / "prefect").mkdir(parents=True, exist_ok=True)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _output_dir() -> Path:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output-dir", "--output_dir", type=Path, default=Path())
    return parser.parse_known_args(sys.argv[1:])[0].output_dir.absolute()
