"""What the server and the worker of `make up` run with; a user's own variables beat it.

Whoever looks for why a server of ours behaves as it does finds it here, and nowhere else.
"""

import os
from collections.abc import Mapping
from pathlib import Path

POOL = "visual-r1"
"""The work pool of `deployments/prefect.yaml`."""

PAGES_VARIABLE = "VISUAL_R1_PAGES_URL"
"""Where the runs' pages are served, for whoever links to them; unset where nobody serves them."""

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}

SERVER = QUIET | {
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    # So that `prefect deployment run --watch` shows a run's log, and not its events alone.
    "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
    "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
    # In memory, as by default, they are gone when the server is started anew: the slots that they
    # stood for would be taken for good, and runs wait for them for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
}
"""The server's own settings."""

WORKER: dict[str, str] = QUIET | {
    # New runs are looked for as often; Prefect's default is ten seconds.
    "PREFECT_WORKER_QUERY_SECONDS": "5",
}
"""The worker's, which the runs that it starts inherit."""


def server_environment(port: int, home: Path) -> dict[str, str]:
    """The variables of a server of our own that listens on `port`."""
    # A page of another origin has nothing to do here, not even in the browser of its user.
    origins = f"http://127.0.0.1:{port},http://localhost:{port}"
    ours = SERVER | {
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": origins,
        "PREFECT_UI_URL": f"http://127.0.0.1:{port}",  # for the links in what it sends
    }
    # A server that is told of another one's address would send its own requests there.
    return _beneath(ours, without=("PREFECT_API_URL", "PREFECT_PROFILE")) | {
        "PREFECT_HOME": str(home)
    }


def worker_environment(api_url: str, results: Path, pages_url: str) -> dict[str, str]:
    """The variables of a worker that takes its work from the server at `api_url`."""
    ours = WORKER | {"PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(results), PAGES_VARIABLE: pages_url}
    return _beneath(ours) | {"PREFECT_API_URL": api_url}


def _beneath(ours: Mapping[str, str], without: tuple[str, ...] = ()) -> dict[str, str]:
    users = {name: value for name, value in os.environ.items() if name not in without}
    return dict(ours) | users
