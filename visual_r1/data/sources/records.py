"""Files that hold a record a row: Parquet, JSON lines, CSV. Rows are streamed."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import IO, Any, Protocol, cast

from visual_r1.data.parquet import column_names, group_sizes, holds_text, names_files, read_rows
from visual_r1.data.sources.source import Wanted, every
from visual_r1.errors import DataError
from visual_r1.opening import open_file

# A line may hold an image as base64; one that is longer is read past, a piece at a time.
MAX_LINE_BYTES = 96 * 2**20
# The names of columns are gathered from so many rows, where no schema gives them.
_PROBED = 64
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FILE_NAME = re.compile(r"\S(?:.*\S)?\.([A-Za-z][A-Za-z0-9]{1,4})")
_IMAGE_NAME = re.compile(
    r".*\.(?:png|jpe?g?|jfif|gif|webp|bmp|dib|tiff?|jp2|j2k|avif|hei[cf]|p[gpn]m|svg)",
    re.IGNORECASE,
)
_IN_A_FOLDER = re.compile(r"((?:[\w.-]*/)*[^\W\d][\w.-]+/)[\w.-]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{64,}=*")
_JSONL = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


@dataclass(frozen=True, slots=True)
class Record:
    """A row as its file gives it: its values by column, or what is wrong with it."""

    place: str
    columns: Mapping[str, Any]
    defect: str | None = None


class RecordFile(Protocol):
    """One file of records."""

    def columns(self) -> Sequence[str]:
        """The names of the columns; of JSON lines those of the first rows; empty where none."""
        ...

    def count(self) -> int:
        """How many records there are."""
        ...

    def records(
        self, columns: Sequence[str] | None, start: int = 0, wanted: Wanted = every
    ) -> Iterator[Record]:
        """The records from number `start` on whose number is `wanted`; with `columns`, at least
        those of their values."""
        ...

    def names_files(self, columns: Sequence[str], *, plainly: bool = False) -> bool:
        """Whether any of `columns` may name files; `plainly`, in the types of Parquet whose files
        were looked at up to `manifest.FORMAT_VERSION`."""
        ...


def record_file(path: Path) -> RecordFile | None:
    """The reader for a file, by its name's ending; None for others."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return ParquetRecords(path)
    if name.endswith(_JSONL):
        return JSONLines(path)
    return CSVRecords(path) if name.endswith(".csv") else None


class ParquetRecords:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def columns(self) -> Sequence[str]:
        return column_names(self._path)

    def count(self) -> int:
        return sum(group_sizes(self._path))

    def records(
        self, columns: Sequence[str] | None, start: int = 0, wanted: Wanted = every
    ) -> Iterator[Record]:
        rows = read_rows(self._path, start, columns, None if wanted is every else wanted)
        for index, row in zip(filter(wanted, count(start)), rows, strict=False):
            yield Record(f"row {index}", row)

    def names_files(self, columns: Sequence[str], *, plainly: bool = False) -> bool:
        return (holds_text if plainly else names_files)(self._path, columns)


class JSONLines:
    """A JSON object a line, perhaps compressed with gzip; empty lines do not count."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def columns(self) -> Sequence[str]:
        names: dict[str, None] = {}
        records = list(islice(self.records(None), _PROBED))
        for record in records:
            names |= dict.fromkeys(record.columns)
        if records and all(record.defect for record in records):
            raise DataError(
                f"{self._path} holds no JSON object a line ({records[0].place}: "
                f"{records[0].defect}); of a JSON list, jq -c '.[]' makes lines."
            )
        return list(names)

    def count(self) -> int:
        return sum(1 for _ in _lines(self._path))

    def records(
        self, columns: Sequence[str] | None, start: int = 0, wanted: Wanted = every
    ) -> Iterator[Record]:
        del columns  # a line is read whole
        for index, (number, line) in enumerate(_lines(self._path)):
            if index >= start and wanted(index):
                yield _parsed(f"line {number}", line)

    def names_files(self, columns: Sequence[str], *, plainly: bool = False) -> bool:
        del columns, plainly
        return True


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not empty with their numbers from 1 on; None for one that is too long."""
    number = 0
    with _opened(path) as file:
        while True:
            try:
                line = _line(file)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(
                    f"{path} cannot be read beyond line {number} ({error}); copy or download it "
                    "again."
                ) from error
            if line == b"":
                return
            number += 1
            if line is not None and number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if line is None or line.strip():
                yield number, line


def _line(file: IO[bytes]) -> bytes | None:
    """The next line, empty at the end; None for one that is too long, which is read past."""
    line = file.readline(MAX_LINE_BYTES)
    if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
        return line
    while (piece := file.readline(MAX_LINE_BYTES)) and not piece.endswith(b"\n"):
        pass
    return None


def _opened(path: Path) -> IO[bytes]:
    try:
        file = open_file(path)
        if path.suffix.lower() != ".gz":
            return file
        file.close()  # it is a file, and gzip closes only what it opened itself
        return cast("IO[bytes]", gzip.open(path, "rb"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


class _Twice(ValueError):
    """An object holds a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Twice(f"the line holds the key {twice!r} twice")
    return found


def _parsed(place: str, line: bytes | None) -> Record:
    if line is None:
        return Record(place, {}, f"the line has more than {MAX_LINE_BYTES} bytes")
    try:
        read: object = json.loads(line.rstrip().decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError:
        return Record(place, {}, "the line is not UTF-8")
    except _Twice as error:
        return Record(place, {}, str(error))
    except ValueError as error:
        return Record(place, {}, f"the line is not JSON: {error}")
    except RecursionError:
        return Record(place, {}, "the line is nested too deeply")
    if not isinstance(read, dict):
        return Record(place, {}, f"the line holds a {type(read).__name__}, not an object")
    return Record(place, cast("dict[str, Any]", read))


class _Lines:
    """The lines of a file, of which the first and the last of a row are remembered."""

    def __init__(self, file: Iterable[str]) -> None:
        self._file = iter(file)
        self.begin()

    def begin(self) -> None:
        """A row begins with the next line."""
        self._first = self._last = ""
        self._count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._last = next(self._file)
        self._first = self._first or self._last
        self._count += 1
        return self._last

    def are_rows(self, columns: int) -> bool:
        """Whether first and last line of a row look like a row each: quotes aside, both have as
        many values as there are `columns`, and figures or files of one kind where either has any.

        Rows that name no file, or name it by a word, cannot be told from a problem's lines.
        """
        if self._count < 2:
            return False
        first, last = (line.strip().split(",") for line in (self._first, self._last))
        if not len(first) == len(last) == columns:
            return False
        kinds = [tuple(map(_file_kind, pair)) for pair in zip(first, last, strict=True)]
        return any(one for one, _ in kinds) and all(one == other for one, other in kinds)


def _file_kind(value: str) -> str:
    """What a value says of a file: that it is an image, by name or as base64; the ending of another
    name; the folder of one without an ending. Empty where it says nothing."""
    text = value.strip(' "')
    if _IMAGE_NAME.fullmatch(text) or _BASE64.fullmatch(text):
        return "image"
    if found := _FILE_NAME.fullmatch(text):
        return found[1].lower()
    found = _IN_A_FOLDER.fullmatch(text)
    return found[1] if found else ""


class _Reader(Protocol):
    """What is used of a `csv.reader`."""

    @property
    def line_num(self) -> int: ...

    def __iter__(self) -> Iterator[list[str]]: ...

    def __next__(self) -> list[str]: ...


class CSVRecords:
    """A CSV file with a header; commas, double quotes, UTF-8."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def columns(self) -> Sequence[str]:
        with self._open() as file:
            return self._header(csv.reader(file, strict=True))

    def count(self) -> int:
        return sum(1 for _ in self.records(None))

    def records(
        self, columns: Sequence[str] | None, start: int = 0, wanted: Wanted = every
    ) -> Iterator[Record]:
        del columns  # a line is read whole
        csv.field_size_limit(MAX_LINE_BYTES)
        with self._open() as file:
            lines = _Lines(file)
            reader = csv.reader(lines, strict=True)
            header = self._header(reader)
            for index, record in enumerate(self._rows(reader, lines, header)):
                if index >= start and wanted(index):
                    yield record

    def names_files(self, columns: Sequence[str], *, plainly: bool = False) -> bool:
        del columns, plainly
        return True

    def _open(self) -> IO[str]:
        try:
            file = open_file(self._path)
            head = file.read(4)
            file.seek(0)
            if head[:2] not in _WIDE_MARKS and b"\0" not in head:
                # Bytes that are no UTF-8 are carried along, so that they spoil their own row alone.
                return io.TextIOWrapper(
                    file, encoding="utf-8-sig", errors="surrogateescape", newline=""
                )
            file.close()
            raise DataError(
                f"{self._path} is no UTF-8 but UTF-16 or UTF-32, as spreadsheets write it: save it "
                "as UTF-8 (CSV UTF-8), or make it so with iconv -f UTF-16 -t UTF-8."
            )
        except OSError as error:
            raise DataError(f"{self._path} cannot be read: {error.strerror}.") from error

    def _header(self, reader: _Reader) -> list[str]:
        try:
            return next(reader, list[str]())
        except csv.Error as error:
            raise DataError(f"{self._path} has no header that can be read: {error}.") from error

    def _rows(self, reader: _Reader, lines: _Lines, header: Sequence[str]) -> Iterator[Record]:
        while True:
            lines.begin()
            place = f"line {reader.line_num + 1}"
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error):
                    raise DataError(
                        f"{self._path} cannot be read beyond {place}: a quote that is opened there "
                        "is never closed, and all that follows would be one value."
                    ) from error
                yield Record(place, {}, f"the line is not CSV: {error}")
                continue
            if not values:
                continue
            row = dict(zip(header, (value or None for value in values), strict=False))
            if len(values) != len(header):
                fault = f"the line has {len(values)} values for {len(header)} columns"
                yield Record(place, {}, fault)
            elif lines.are_rows(len(header)):
                fault = (
                    f"the row ends in line {reader.line_num}, where a quote closes that its first "
                    "line opens, and each of the two lines would be a row by itself: a quote is "
                    "too many there, or is to be doubled"
                )
                yield Record(place, {}, fault)
            else:
                yield Record(place, row)
