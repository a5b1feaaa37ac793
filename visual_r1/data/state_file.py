"""The SQLite file of a preparation: one transaction after another, so that all changes together.

SQLite knows whether its pages hold together, and not whether a value is the one that was written.
So each table has a sum of digests of its rows, which triggers keep; it is made anew and compared
where a preparation goes on.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from visual_r1.hashing import content_digest

# Called so since the first version: a preparation that was begun then goes on.
STATE_FILE = "journal.sqlite"
_CACHE_KB = 32 * 1024
_BITS = 2**62 - 1


class StateFile:
    """The file in `folder`, with `tables` made where it is new; a transaction is always open.

    `upgrades` has, by version, the statement that makes the next one of it.

    Raises `sqlite3.DatabaseError` where the file is damaged or of another version, and
    `sqlite3.OperationalError`, also later, where it cannot be written.
    """

    def __init__(
        self, folder: Path, tables: str, version: int, upgrades: Mapping[int, str] | None = None
    ) -> None:
        self._db = sqlite3.connect(folder / STATE_FILE, isolation_level=None)
        try:
            self._open(tables, version, upgrades or {})
        except BaseException:
            self._db.close()
            raise

    def _open(self, tables: str, version: int, upgrades: Mapping[int, str]) -> None:
        self._db.create_function("row_sum", -1, _row_sum, deterministic=True)
        self._db.execute("PRAGMA trusted_schema = ON")  # for that function in triggers
        self._db.execute("PRAGMA recursive_triggers = ON")  # for what REPLACE deletes
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        found = self.number("PRAGMA user_version")
        self._db.execute("BEGIN")
        if found == version:
            return
        if found and found not in upgrades:
            raise sqlite3.DatabaseError(f"a preparation's state of version {found}")
        for statement in [upgrades[found]] if found else tables.split(";")[:-1]:
            self._db.execute(statement)
        self._keep_sums()
        self._db.execute(f"PRAGMA user_version = {version}")
        self.commit()

    def _keep_sums(self) -> None:
        self._db.execute("CREATE TABLE sums (name TEXT PRIMARY KEY, total INTEGER)")
        for table in self._tables():
            for change, signed in (
                ("INSERT", {"new": "+"}),
                ("DELETE", {"old": "-"}),
                ("UPDATE", {"old": "-", "new": "+"}),
            ):
                terms = " ".join(
                    f"{sign} row_sum({self._columns(table, row)})" for row, sign in signed.items()
                )
                self._db.execute(
                    f"CREATE TRIGGER {table}_{change} AFTER {change} ON {table} BEGIN UPDATE sums "
                    f"SET total = (total {terms}) & {_BITS} WHERE name = '{table}'; END"
                )
            self.execute("INSERT INTO sums VALUES (?, ?)", table, self._sum(table))

    def _tables(self) -> list[str]:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'sums'"
        return [name for (name,) in self.rows(query)]

    def _columns(self, table: str, row: str) -> str:
        return ", ".join(f"{row}.{one[1]}" for one in self.rows(f"PRAGMA table_info({table})"))

    def _sum(self, table: str) -> int:
        """Whatever the order of the rows: their keys are part of them."""
        found = self.rows(f"SELECT row_sum({self._columns(table, table)}) FROM {table}")
        return sum(one for (one,) in found) & _BITS

    def is_sound(self) -> bool:
        """Whether the file holds together, and every row is as it was written."""
        if next(self.rows("PRAGMA integrity_check(1)"))[0] != "ok":
            return False
        sums: dict[str, int] = dict(self.rows("SELECT name, total FROM sums"))
        return sums == {table: self._sum(table) for table in self._tables()}

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

    def empty(self, table: str) -> None:
        """Delete all rows of a table, without reading them: their sum is known to be none."""
        query = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?"
        trigger = f"{table}_DELETE"
        (statement,) = next(self.rows(query, trigger))
        self._db.execute(f"DROP TRIGGER {trigger}")
        self._db.execute(f"DELETE FROM {table}")
        self._db.execute(statement)
        self._db.execute("UPDATE sums SET total = 0 WHERE name = ?", (table,))

    def rows(self, query: str, *values: object) -> Iterator[Any]:
        """What is found, row by row."""
        return cast("Iterator[Any]", self._db.execute(query, values))

    def number(self, query: str, *values: object) -> int:
        """The one number that is found."""
        return int(next(self.rows(query, *values))[0])


def _row_sum(*values: object) -> int:
    """60 bits of a digest of a row."""
    pieces: list[bytes] = []
    for value in values:
        piece = value if isinstance(value, bytes) else repr(value).encode("utf-8", "replace")
        pieces += [type(value).__name__.encode(), len(piece).to_bytes(8, "little"), piece]
    return int(content_digest(b"".join(pieces))[:15], 16)
