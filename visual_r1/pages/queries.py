"""DuckDB over Parquet files: typed rows, values bound, memory, threads and time bounded.

Nothing is copied into a database and nothing is locked: each question reads the files as they are
now. What makes that quick on a hundred thousand rollouts, by `EXPLAIN ANALYZE`:

    columns         a table's page, its counts and its order read narrow columns alone; the text of
                    a response is read for the rows that are shown (late materialization: the rows
                    are found first, then fetched by their numbers in the files)
    row groups      a group is asked for by its step, and rows lie by step: of the other row groups
                    no more than the statistics in the footers is read
    footers         are kept between questions as long as a file is the same
    pages           begin behind the last row of the page before (keyset), and never count from 0
    text            is looked for in the columns of text alone, once a question, by RE2: without
                    regard to case, and in linear time whatever the pattern

SQL is made of constants and of column names that the files' schemas have; values, the names of the
files among them, are bound.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import cache
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import duckdb
from pydantic import TypeAdapter

from visual_r1.errors import DataError
from visual_r1.wording import printable

T = TypeVar("T")

MEMORY = "160MB"
THREADS = 2
WITHIN_S = 20.0
"""After so long a question is given up: a page that takes longer helps nobody."""

# Pages have fewer rows: for more, texts would be read before it is known which rows are shown.
_ROWS_FETCHED_LATE = 300
_SETTINGS = (
    ("memory_limit", MEMORY),
    ("threads", THREADS),
    ("temp_directory", ""),
    ("autoinstall_known_extensions", False),
    ("autoload_known_extensions", False),
    ("parquet_metadata_cache", True),
    ("late_materialization_max_rows", _ROWS_FETCHED_LATE),
    ("lock_configuration", True),
)


class Vanished(DataError):
    """A file was there a moment ago: a run that trains has written it anew."""


class Queries:
    """A DuckDB in memory that threads may share: each `session` is a connection of its own."""

    def __init__(self) -> None:
        self._database: Any = duckdb.connect(":memory:")
        for name, value in _SETTINGS:
            self._database.execute(f"SET GLOBAL {name} = $value", {"value": value})

    def session(self) -> "Session":
        """A connection, for a block; temporary tables go with it."""
        return Session(self._database.cursor())


class Session:
    """Questions of one request, one after another."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cursor.close()

    def rows(self, shape: TypeAdapter[T], sql: str, values: Mapping[str, object]) -> list[T]:
        """What `sql` selects, each row as the type of `shape`, by the names of its columns.

        `values` are those of its `$names`; what it does not name is left out.

        Raises:
            Vanished: a file is no longer there, or is another than a moment ago.
            DataError: in a sentence, what DuckDB says otherwise, or that it took too long.
        """
        named = {name: value for name, value in values.items() if f"${name}" in sql}
        timer = threading.Timer(WITHIN_S, self._cursor.interrupt)
        timer.daemon = True
        timer.start()
        try:
            found = self._cursor.execute(sql, named)
            names = [column[0] for column in cast("list[tuple[str, ...]]", found.description)]
            rows = cast("list[tuple[Any, ...]]", found.fetchall())
        except duckdb.InterruptException as error:
            raise DataError(
                f"This took longer than {WITHIN_S:.0f} s and was given up: ask for fewer steps, or "
                "for a plainer text."
            ) from error
        except duckdb.IOException as error:
            raise Vanished(
                f"A file could not be read ({_first_line(error)}): try again."
            ) from error
        except duckdb.Error as error:
            raise DataError(
                f"DuckDB could not answer ({_first_line(error)}): `visual-r1 verify` says which "
                "file is damaged."
            ) from error
        finally:
            timer.cancel()
        return [shape.validate_python(dict(zip(names, row, strict=True))) for row in rows]

    def run(self, sql: str, values: Mapping[str, object]) -> None:
        """As `rows`, of a statement that gives none."""
        self.rows(_NOTHING, sql, values)


_NOTHING = TypeAdapter(dict[str, Any])


@cache
def queries() -> Queries:
    """That of this process."""
    return Queries()


def parquet(files: str, *, named: bool = False) -> str:
    """A table of SQL: the rows of the files whose names are bound as `$files`.

    Columns are matched by name: a component of the reward that came later is null in the rows from
    before. With `named`, each row has its file's name in `filename`.
    """
    return f"read_parquet(${files}, union_by_name = true{', filename = true' if named else ''})"


def names_of(files: Sequence[Path]) -> list[str]:
    """The names to be bound: DuckDB would read `run[1]` as a pattern."""
    return [escape(str(path.absolute())) for path in files]


def quoted(name: str) -> str:
    """The name of a column in SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def pattern_of(text: str, *, regular: bool) -> str:
    """The pattern of RE2 that finds `text`; `DataError` where it is no regular expression."""
    if not regular:
        return "".join(f"\\x{{{ord(one):x}}}" if not one.isalnum() else one for one in text)
    with queries().session() as session:
        try:
            session.run("SELECT regexp_matches('', $pattern, 'i')", {"pattern": text})
        except DataError as error:
            cause = _first_line(cast(Exception, error.__cause__))
            raise DataError(
                f"{text!r} is no regular expression that RE2 knows ({cause}): mend it, or search "
                "for it as plain text."
            ) from error
    return text


def _first_line(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0], most=300)
