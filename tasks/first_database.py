"""The database of a Prefect home that has none yet: made once on a machine, and then copied.

Prefect makes one by all of its migrations, a hundred or more, which takes more processor time than
all else that its server does at a start. What comes of them depends on Prefect's version alone, so
it is kept in the user's cache (`XDG_CACHE_HOME`, or `~/.cache`) before anything was written into
it. Its name holds a digest of it: one that is damaged is made again, and a cache that cannot be
used is done without.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import prefect
from prefect.settings import get_current_settings

from visual_r1.hashing import content_digest, file_digest


def cache_folder() -> Path:
    """Where it is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visual-r1"


def database_to_be() -> Path | None:
    """Where the home of Prefect's settings will have a database; None where it has one, or where
    the settings name another."""
    settings = get_current_settings()
    path = settings.home / "prefect.db"
    url = settings.server.database.connection_url
    named = None if url is None else url.get_secret_value()
    return path if named in (None, f"sqlite+aiosqlite:///{path}") and not path.exists() else None


def _kept() -> Iterator[Path]:
    return cache_folder().glob(f"prefect-{prefect.__version__}-*.db")


def copy_first(path: Path) -> bool:
    """Put the kept one at `path`; whether there was one, and none at `path`."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        for kept in _kept():
            content = kept.read_bytes()
            if content_digest(content) != kept.stem.rpartition("-")[2]:
                kept.unlink(missing_ok=True)
                continue
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".prefect-") as new:
                new.write(content)
                new.flush()
                os.link(new.name, path)  # and never in the place of one that came meanwhile
            return True
    return False


def keep_first(path: Path) -> None:
    """Keep the database at `path`, which Prefect has made, unless one is kept, or somebody who
    begins beside has a flow run in it."""
    with suppress(OSError, sqlite3.Error):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if any(_kept()):
            return
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            copy = Path(beside) / "prefect.db"
            with closing(sqlite3.connect(path)) as made, closing(sqlite3.connect(copy)) as kept:
                made.backup(kept)
                if kept.execute("SELECT EXISTS (SELECT * FROM flow_run)").fetchone() != (0,):
                    return
            copy.replace(folder / f"prefect-{prefect.__version__}-{file_digest(copy)}.db")
