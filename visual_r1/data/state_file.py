"""The SQLite file of a preparation: one transaction after another, so that all changes together."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

# Called so since the first version: a preparation that was begun then goes on.
STATE_FILE = "journal.sqlite"
_CACHE_KB = 32 * 1024


class StateFile:
    """The file in `folder`, with `tables` made where it is new; a transaction is always open.

    Raises `sqlite3.DatabaseError` where the file is damaged or of another version, and
    `sqlite3.OperationalError`, also later, where it cannot be written.
    """

    def __init__(self, folder: Path, tables: str, version: int) -> None:
        self._db = sqlite3.connect(folder / STATE_FILE, isolation_level=None)
        try:
            self._open(tables, version)
        except BaseException:
            self._db.close()
            raise

    def _open(self, tables: str, version: int) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        found = self.number("PRAGMA user_version")
        self._db.execute("BEGIN")
        if found == 0:
            for statement in tables.split(";")[:-1]:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {version}")
            self.commit()
        elif found != version:
            raise sqlite3.DatabaseError(f"a preparation's state of version {found}")

    def close(self) -> None:
        """Close it; what was not committed is forgotten."""
        self._db.close()

    def commit(self) -> None:
        """Make all that was written since the last call last."""
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")

    def execute(self, statement: str, *values: object) -> None:
        """Change something."""
        self._db.execute(statement, values)

    def execute_each(self, statement: str, values: Iterable[Sequence[object]]) -> None:
        """Change something with each of `values`."""
        self._db.executemany(statement, values)

    def rows(self, query: str, *values: object) -> Iterator[Any]:
        """What is found, row by row."""
        return cast("Iterator[Any]", self._db.execute(query, values))

    def number(self, query: str, *values: object) -> int:
        """The one number that is found."""
        return int(next(self.rows(query, *values))[0])
