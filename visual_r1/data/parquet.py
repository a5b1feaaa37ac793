"""Parquet, as far as datasets need it; the schemas, and reading what others have written."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

from visual_r1.errors import DataError
from visual_r1.storage import sync_folder
from visual_r1.tables import READ_ERRORS, open_table, open_writer, pa, pq, read_table, reason

# A problem that is drawn costs the reading of its group, and each group its place in the footer:
# few rows make a batch cheap, many an opening.
GROUP_ROWS = 32
GROUP_BYTES = 2 * 2**20
_BATCH_ROWS = 32
_COLUMN_ROWS = 2**16

_STRING = {"dtype": "string", "_type": "Value"}
# What `datasets` reads from the schema's metadata to decode the images.
_FEATURES = {
    "id": _STRING,
    "images": {"feature": {"_type": "Image"}, "_type": "List"},
    "problem": _STRING,
    "answer": _STRING,
    "choices": {"feature": _STRING, "_type": "List"},
    "source": _STRING,
    "meta": _STRING,
}
PROBLEM_SCHEMA: Any = pa.schema(
    [
        ("id", pa.string()),
        ("images", pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("source", pa.string()),
        ("meta", pa.string()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)
REJECTED_SCHEMA: Any = pa.schema([(name, pa.string()) for name in ("split", "row", "id", "reason")])
SIZES_SCHEMA: Any = pa.schema(
    [
        ("split", pa.string()),
        ("id", pa.string()),
        ("widths", pa.list_(pa.int32())),
        ("heights", pa.list_(pa.int32())),
        ("text_bytes", pa.int64()),
    ]
)


class Table(Protocol):
    """A row group in memory."""

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def slice(self, offset: int, length: int) -> "Table": ...

    def to_pylist(self) -> list[dict[str, Any]]: ...


class GroupWriter:
    """One Parquet file, written in row groups of at most `GROUP_ROWS` rows or `GROUP_BYTES`.

    A thread writes one group while the next one is collected. The file has another name until it
    is whole: use it with `contextlib.closing`, and call `finish` at the end of the block.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self._path = path
        self._temporary = path.with_name(f"{path.name}.tmp")
        self._schema = schema
        self._writer: Any = open_writer(self._temporary, schema)
        self._waiting: list[Mapping[str, Any]] = []
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def write(self, row: Mapping[str, Any], size: int = 0) -> None:
        """Add a row that takes about `size` bytes.

        Raises `OSError`, also of rows before, where the file cannot be written.
        """
        self._waiting.append(row)
        self._bytes += size
        if len(self._waiting) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write what waits and the footer: the file is there, and survives a power cut.

        Raises `OSError`.
        """
        self._flush()
        self._written()
        self._writer.close()
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        self._temporary.replace(self._path)
        sync_folder(self._path.parent)

    def close(self) -> None:
        """End the thread. What was not finished is of no use, and no error of it either: the next
        attempt writes over it."""
        self._thread.shutdown()
        with suppress(OSError, pa.ArrowException):
            self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._written()
            self._writing = self._thread.submit(self._write_group, self._waiting)
        self._waiting, self._bytes = [], 0

    def _written(self) -> None:
        """Wait for the group that is being written; raise what became of it."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write_group(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._writer.write_table(pa.Table.from_pylist(rows, self._schema))


def group_sizes(path: Path) -> Sequence[int]:
    """The rows of each row group. Raises `DataError` where the file is damaged."""
    try:
        footer = pq.read_metadata(path)
    except READ_ERRORS as error:
        raise _damaged(path, error) from error
    return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]


class OpenFile:
    """A file whose row groups are read one by one. Its footer, which grows with their number, is
    read once.

    Everything raises `DataError` where the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: Any = open_table(path)
        except READ_ERRORS as error:
            raise _damaged(path, error) from error
        footer = self._file.metadata
        self.group_sizes: Sequence[int] = [
            footer.row_group(group).num_rows for group in range(footer.num_row_groups)
        ]
        """The rows of each row group."""

    def group(self, number: int) -> Table:
        """One row group."""
        try:
            # A group is small: threads would cost more than they save.
            return cast(Table, self._file.read_row_group(number, use_threads=False))
        except READ_ERRORS as error:
            raise _damaged(self._path, error) from error

    def close(self) -> None:
        """It is read no more."""
        self._file.close()


def read_groups(path: Path) -> Iterator[Table]:
    """The row groups one after another. Raises `DataError` where the file is damaged."""
    file = OpenFile(path)
    try:
        yield from map(file.group, range(len(file.group_sizes)))
    finally:
        file.close()


def column_names(path: Path) -> Sequence[str]:
    """The names of the columns. Raises `DataError` where the file is no Parquet."""
    try:
        return cast("list[str]", pq.read_schema(path).names)
    except READ_ERRORS as error:
        raise _damaged(path, error) from error


@dataclass(frozen=True, slots=True)
class BadValue:
    """Stands where a column holds a value that Python cannot: text that is no UTF-8, say."""

    why: str


def read_rows(
    path: Path,
    start: int = 0,
    columns: Sequence[str] | None = None,
    wanted: Callable[[int], bool] | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows from number `start` on one by one, a few in memory; `columns` alone where given.

    Of those, where `wanted` is given, the rows whose number it says yes to. Row groups that lie
    before `start` are not read. Text that is not UTF-8 becomes an `BadValue`, so that it spoils its
    own row and no other.
    """
    try:
        with open_table(path) as file:
            sizes = group_sizes(path)
            first, skipped = 0, start
            while first < len(sizes) and sizes[first] <= skipped:
                skipped -= sizes[first]
                first += 1
            names, number = None if columns is None else list(columns), start
            for batch in _batches(file, range(first, len(sizes)), names):
                rest = batch.slice(min(skipped, batch.num_rows))
                skipped -= batch.num_rows - rest.num_rows
                if wanted is None:
                    yield from rows_of(rest)
                else:
                    places = range(rest.num_rows)
                    yield from rows_at(rest, [at for at in places if wanted(number + at)])
                number += rest.num_rows
    except READ_ERRORS as error:
        raise _damaged(path, error) from error


def _batches(file: Any, groups: Iterable[int], columns: Sequence[str] | None) -> Iterator[Any]:
    """The rows of some groups, a few at a time.

    One group after the other: pyarrow keeps what it has read of all that it is asked for at once.
    """
    for group in groups:
        # A batch is small: threads would cost more than they save.
        yield from file.iter_batches(
            _BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
        )


def rows_of(table: Any) -> Iterator[dict[str, Any]]:
    """The rows of an Arrow table or batch, as `read_rows` gives them."""
    names = cast("list[str]", table.schema.names)
    columns = [_values(column) for column in table.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def rows_at(table: Any, places: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows of an Arrow table or batch at these places, as `read_rows` gives them."""
    if len(places) == table.num_rows:
        return rows_of(table)
    # One by one: to take several at once copies them, and refuses some of their types.
    return (row for place in places for row in rows_of(table.slice(place, 1)))


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return BadValue("not UTF-8")
    except (ValueError, OverflowError) as error:
        return BadValue(f"out of range: {error}")


def write_columns(path: Path, schema: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of numbers and short text; the row groups are large, to be read at once."""
    with open_writer(path, schema) as writer:
        for some in _pieces(rows, _COLUMN_ROWS):
            writer.write_table(pa.Table.from_pylist(some, schema))


def _pieces(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    left = iter(rows)
    while some := list(islice(left, size)):
        yield some


def column_arrays(path: Path, columns: Sequence[str]) -> Mapping[str, Any]:
    """Whole columns: numbers as NumPy arrays, text as lists.

    A column of lists comes as all its values, and where each row's begin under "<name> starts"
    [rows + 1]. Raises `DataError` where the file is damaged.
    """
    found: dict[str, Any] = {}
    try:
        table = read_table(path, columns).combine_chunks()
        for name in columns:
            column = table[name].combine_chunks()
            if pa.types.is_list(column.type):
                found[f"{name} starts"] = column.offsets.to_numpy().astype("int64")
                column = column.flatten()
            text = pa.types.is_string(column.type)
            found[name] = column.to_pylist() if text else column.to_numpy()
    except READ_ERRORS as error:
        raise _damaged(path, error) from error
    return found


def holds_text(path: Path, columns: Sequence[str]) -> bool:
    """Whether any of `columns` is of text, or of lists of text, in plain types."""
    schema = pq.read_schema(path)
    kinds = [schema.field(name).type for name in columns if name in schema.names]
    kinds += [kind.value_type for kind in kinds if pa.types.is_list(kind)]
    return any(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in kinds)


def names_files(path: Path, columns: Sequence[str]) -> bool:
    """Whether any of `columns` may hold a path, or base64: text of any type, however nested; but
    not where it stands beside `bytes` that are all there."""
    footer, schema = pq.read_metadata(path), pq.read_schema(path)
    for name in columns:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        if _has_text(kind) and not (_has_bytes(kind) and _all_bytes_are_there(footer, name)):
            return True
    return False


def _has_text(kind: Any) -> bool:
    types = pa.types
    if types.is_struct(kind):
        return any(_has_text(kind.field(place).type) for place in range(kind.num_fields))
    inside = _inside(kind)
    if inside is not None:
        return _has_text(inside)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _has_bytes(kind: Any) -> bool:
    """Whether it is an object with `bytes`, as `datasets` has images, or a list of such."""
    inside = _inside(kind)
    if inside is not None:
        return _has_bytes(inside)
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _inside(kind: Any) -> Any:
    """The type of what a list or a dictionary holds; None for other types."""
    types = pa.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view)
    lists = (*lists, types.is_large_list_view, types.is_dictionary)
    return kind.value_type if any(is_one(kind) for is_one in lists) else None


def _all_bytes_are_there(footer: Any, name: str) -> bool:
    """Whether the footer says that no `bytes` of the column is null, as one of an empty list is."""
    for group in range(footer.num_row_groups):
        chunks = footer.row_group(group)
        for place in range(chunks.num_columns):
            chunk = chunks.column(place)
            where = chunk.path_in_schema.split(".")
            if where[0] == name and where[-1] == "bytes":
                counted = chunk.statistics
                if counted is None or not counted.has_null_count or counted.null_count:
                    return False
    return True


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as Parquet ({reason(error)}); copy or download it "
        "again, or remove its folder where it is a prepared one: the same command then prepares it "
        "anew."
    )
