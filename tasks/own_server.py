"""The server of `make up`, as programs in its folder find it: by a `prefect.toml` of ours.

Prefect reads that file in the folder it is started in, after the environment and `.env`: so
`prefect` and the flows use that server without a word, and go back to their own way when it is
gone. A `prefect.toml` that somebody else wrote is never touched.
"""

import socket
import tomllib
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from visual_r1.storage import write_text

_OURS = """\
# Written by `make up` and removed by `make down`: it leads `prefect` and the flows in this folder
# to the server of `make up`. In a file without this line nothing is ever changed.
"""


WORKER_NAME = f"visual-r1 on {socket.gethostname()}"
"""Under which Prefect knows this machine's worker, the same after each start; Prefect notes it on
each run that it takes."""


def server_folder(root: Path) -> Path:
    """Where `make up` keeps its logs, its records and the server's database."""
    return root / ".visual-r1" / "server"


def keeper_lock(root: Path) -> FileLock:
    """Held by the process that keeps the server alive, for as long as it lives."""
    return FileLock(server_folder(root) / "keeper.lock", timeout=0)


def lead_here(root: Path, api_url: str) -> bool:
    """Let `prefect` in `root` find the server at `api_url`; False where a user's file is there."""
    path = root / "prefect.toml"
    if path.exists() and not _is_ours(path):
        return False
    write_text(path, f'{_OURS}[api]\nurl = "{api_url}"\n')
    return True


def lead_nowhere(root: Path) -> None:
    """Take back what `lead_here` wrote."""
    path = root / "prefect.toml"
    if _is_ours(path):
        path.unlink(missing_ok=True)


def forget_lost_server(root: Path) -> None:
    """Take it back where that server is gone: after a power cut nobody else has."""
    path = root / "prefect.toml"
    if not _is_ours(path):
        return
    try:
        with keeper_lock(root):
            pass
    except Timeout:
        return  # a server that died is started again
    except OSError:
        return
    with suppress(OSError, ValueError, KeyError):
        url = urlsplit(tomllib.loads(path.read_text())["api"]["url"])
        socket.create_connection((url.hostname or "127.0.0.1", url.port or 80), 2.0).close()
        return
    lead_nowhere(root)


def _is_ours(path: Path) -> bool:
    with suppress(OSError, ValueError):
        return path.read_text().startswith(_OURS)
    return False
