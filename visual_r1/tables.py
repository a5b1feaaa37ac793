"""Parquet that is read again: how it is written, and what becomes of a file that is damaged.

Each page has a checksum, which is looked at when the page is read. What is around the pages has
none, so a file's own digest stands where the file is named: a manifest, a report, the ledger.
pyarrow raises a dozen kinds of errors at a damaged file, Python's own among them: here they become
one.
"""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.compute  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

from visual_r1.errors import DataError, VisualR1Error
from visual_r1.hashing import content_digest, known_digest
from visual_r1.opening import require_file

pa: Any = pyarrow  # it has no type stubs
compute: Any = pyarrow.compute
pq: Any = pyarrow.parquet

# A damaged length is memory that nobody has, a damaged page text that is no UTF-8, a damaged schema
# a column that is not there or holds something else.
READ_ERRORS: tuple[type[Exception], ...] = (
    pa.ArrowException,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
    MemoryError,
)


@contextmanager
def said_of(
    path: Path, way_out: str, kind: type[VisualR1Error] = DataError
) -> Generator[None, None, None]:
    """Let what the block raises over a damaged file be one sentence that names `path`."""
    try:
        yield
    except READ_ERRORS as error:
        raise kind(f"{path} cannot be read as Parquet ({reason(error)}); {way_out}.") from error


def reason(error: Exception) -> str:
    """The first line of what a library says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def open_writer(path: Path, schema: Any) -> Any:
    """A `pyarrow.parquet.ParquetWriter`."""
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


ROW_GROUP = 4096
"""Rows of a group in a table with text: so much is decoded by whoever wants one of them."""


def write_table(path: Path, table: Any) -> None:
    """Write a `pyarrow.Table`, in groups of rows whose statistics say what is in them."""
    pq.write_table(
        table, path, compression="zstd", write_page_checksum=True, row_group_size=ROW_GROUP
    )


def open_table(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`; errors as they come, for a block of `said_of`."""
    require_file(path)
    return pq.ParquetFile(path, page_checksum_verification=True)


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A `pyarrow.Table`; errors as they come, for a block of `said_of`."""
    with open_table(path) as file:
        return file.read(columns=None if columns is None else list(columns))


def table_digest(table: Any) -> str:
    """A digest of the values, whatever the order of the columns and the layout of the file."""
    digests = (
        f"{name}{json.dumps(table[name].to_pylist())}" for name in sorted(table.schema.names)
    )
    return content_digest(*(text.encode() for text in digests))


def require_digest(
    path: Path, expected: str, way_out: str, kind: type[VisualR1Error] = DataError
) -> None:
    """Raise `kind` where the bytes of a file are not those that were written."""
    try:
        found = known_digest(path)
    except OSError as error:
        raise kind(f"{path} cannot be read ({error.strerror or error}); {way_out}.") from error
    if found != expected:
        raise kind(
            f"{path} is damaged: its digest is {found}, and what was written had {expected}; "
            f"{way_out}."
        )
