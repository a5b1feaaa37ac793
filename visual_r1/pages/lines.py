"""The narrow columns of a run's rollouts, kept in memory: what tables are filtered and ordered by.

Whatever a table of rollouts is asked, it is asked of columns that come to some 150 bytes a row. So
they are read once for each state of the files, into a table of DuckDB's; the long texts stay in the
files, and are fetched by their places for the rows that are shown. A file that is written anew is
another state: the first page is then answered from the files, and the table made behind it, in
about a microsecond a row. Where a text was found is kept beside it: whoever goes through what was
found, or filters it, does not look for it again.

Tables of all runs together hold `MOST` rows, and of those that nobody asks just now the ones that
were asked longest ago go first. A run with more of its own is asked in its files.
"""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache

from visual_r1.errors import VisualR1Error
from visual_r1.pages.queries import Session, Vanished, names_of, parquet, queries, quoted
from visual_r1.pages.sound import COLUMNS, COMPONENT, Files, file_states

MOST = 300_000
SEARCHES = 8
"""Of a table that are kept."""

PLACE = "(file_index::BIGINT << 32 | file_row_number)"
"""Where a row is, as one number: which file of those that are read, and which row of it."""

SEARCH = (
    f"SELECT {PLACE} AS place FROM {parquet('files')} WHERE regexp_matches(response, $pattern, 'i')"
)
"""The places of the responses in `$files` that `$pattern` is in, without regard to case."""

_NUMBERS = itertools.count()
_LEFT = {
    *("response", "scan_read", "second_response", "reason"),
    *("grader_version", "second_verdict"),
}
_TYPES = {"text": "VARCHAR", "whole numbers": "INTEGER"}


def narrow(files: Files) -> list[str]:
    """The names of the columns that a table shows, or is asked by: the long texts are left."""
    return [name for name in COLUMNS if name not in _LEFT] + [
        COMPONENT + name for name in files.components
    ]


def lines_of(files: Files) -> str:
    """A selection of the rows' places and narrow columns; what an older version did not write is
    null."""
    columns = [
        quoted(name)
        if name in files.columns
        else f"NULL::{_TYPES.get(COLUMNS.get(name, ''), 'DOUBLE')} AS {quoted(name)}"
        for name in narrow(files)
    ]
    return f"SELECT {PLACE} AS place, {', '.join(columns)} FROM {parquet('files')}"


def place_in(place: int) -> tuple[int, int]:
    """The number of the file, and of the row in it."""
    return place >> 32, place & 0xFFFFFFFF


@dataclass
class Table:
    """The lines of some files: the name of the table, and how many hold it just now."""

    name: str
    rows: int
    users: int = 0
    _found: OrderedDict[str, str] = field(default_factory=OrderedDict[str, str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def found(self, session: Session, pattern: str, values: Mapping[str, object]) -> str:
        """The name of a table with the places of the responses that `pattern` is in, as long as
        this one is held; `values` are those of `SEARCH`."""
        with self._lock:
            if pattern not in self._found:
                self._drop_searches(session, SEARCHES - 1)
                name = f"found_{next(_NUMBERS)}"
                session.run(f"CREATE TABLE {name} AS {SEARCH}", values)
                self._found[pattern] = name
            self._found.move_to_end(pattern)
            return self._found[pattern]

    def drop(self, session: Session) -> None:
        """Nobody holds it any longer."""
        with self._lock:
            self._drop_searches(session, 0)
        session.run(f"DROP TABLE {self.name}", {})

    def _drop_searches(self, session: Session, most: int) -> None:
        # Whoever else holds the lines may be reading any of them.
        while self.users <= 1 and len(self._found) > most:
            session.run(f"DROP TABLE {self._found.popitem(last=False)[1]}", {})


@dataclass
class KeptLines:
    """The tables of a process; threads may share it."""

    most: int = MOST
    _tables: OrderedDict[object, Table] = field(default_factory=OrderedDict[object, Table])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def make_ready(self, files: Files) -> None:
        """Make the table of `files`, for whoever asks next; nothing where it is there, where there
        is nothing to make it of, or where it cannot be made."""
        if not files.paths:
            return
        with suppress(VisualR1Error), self.lent(files):
            pass

    @contextmanager
    def lent(self, files: Files, *, makes: bool = True) -> Generator[Table | None]:
        """The table with the rows of `files`, which stays for the block; None for too many rows,
        and where it is not there and nobody `makes` it.

        Raises `Vanished` where a file is no longer what it was when it was looked at.
        """
        table = None
        with self._lock:
            key = files.paths, files.states, files.columns
            if files.rows <= self.most and (makes or key in self._tables):
                table = self._tables.get(key) or self._make(files)
                table.users += 1
                self._tables[key] = table
                self._tables.move_to_end(key)
                self._drop_old()
        try:
            yield table
        finally:
            if table is not None:
                with self._lock:
                    table.users -= 1

    def _make(self, files: Files) -> Table:
        table = Table(f"lines_{next(_NUMBERS)}", files.rows)
        with queries().session() as session:
            session.run(
                f"CREATE TABLE {table.name} AS {lines_of(files)}",
                {"files": names_of(files.paths)},
            )
            if file_states(files.paths) != files.states:
                session.run(f"DROP TABLE {table.name}", {})
                raise Vanished("A file was written anew while it was read: try again.")
        return table

    def _drop_old(self) -> None:
        idle = [key for key, table in self._tables.items() if not table.users]
        with queries().session() as session:
            while idle and sum(table.rows for table in self._tables.values()) > self.most:
                self._tables.pop(idle.pop(0)).drop(session)


@cache
def kept_lines() -> KeptLines:
    """That of this process."""
    return KeptLines()
