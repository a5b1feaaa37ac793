"""Local files of rows: Parquet, JSON lines, or images with a table of metadata beside them.

A file belongs to the split that its name, or the nearest of the folders it is in, begins with, or
else holds as a word; all to train where none says. Images that a row names by a path are looked for
from the row's file on, and must lie in the source's folder. Without ids a row is known by its split
and number.

What was made of a source may lie in its folder as well, where that is the output folder: datasets
and runs beneath it are not read as rows of it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from visual_r1.config import DataSection
from visual_r1.data.problem import Split
from visual_r1.data.rows import SourceRow
from visual_r1.data.sources.columns import (
    ColumnMap,
    id_of_columns,
    image_paths,
    map_columns,
    row_from_columns,
)
from visual_r1.data.sources.images_of_rows import BadColumn, ImageFiles
from visual_r1.data.sources.records import RecordFile, record_file
from visual_r1.data.sources.source import (
    HASHED_BYTES,
    SplitNames,
    Wanted,
    contents_digest,
    every,
    printable,
)
from visual_r1.errors import DataError
from visual_r1.opening import read_file

# By the convention of Hugging Face's image folders, which see them before anything else.
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
# In this order: the first that is there.
_PATTERNS = (
    METADATA,
    ("*.parquet",),
    ("*.jsonl", "*.jsonl.gz", "*.ndjson", "*.ndjson.gz"),
    ("*.csv",),
)
_ENDINGS = re.compile(r"\.(parquet|csv|(jsonl|ndjson)(\.gz)?)$", re.IGNORECASE)
_NOT_DATA = re.compile(r"(.*-[0-9a-f]{8}-)?rejected\.parquet|sizes\.parquet")
# By what a dataset and a run are known, whatever became of the rest of the file.
_MADE_HERE = {
    "manifest.json": (b'"format_version"', b'"fingerprint"'),
    "config.json": (b'"preset"', b'"output_dir"'),
}


def row_files(path: Path) -> Sequence[Path]:
    """The files of rows at `path`, all of one kind; none where there are none.

    In a folder, metadata of images come first, then Parquet, then JSON lines, then CSV.
    """
    if path.is_file():
        return [path] if record_file(path) else []
    made_here: dict[Path, bool] = {path: False}  # one that is asked for by its name is meant
    for patterns in _PATTERNS:
        found = [
            file
            for pattern in patterns
            for file in path.rglob(pattern)
            if _is_data(file, path) and not _is_made_here(file.parent, made_here)
        ]
        if found:
            return sorted(found)
    return []


def _is_data(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.is_file() and not hidden and not _NOT_DATA.fullmatch(file.name)


def _is_made_here(folder: Path, known: dict[Path, bool]) -> bool:
    """Whether the folder is, or lies in, that of a dataset or a run; `known` has the source's."""
    if folder not in known:
        known[folder] = _has_a_mark(folder) or _is_made_here(folder.parent, known)
    return known[folder]


def _has_a_mark(folder: Path) -> bool:
    for name, words in _MADE_HERE.items():
        with suppress(OSError):
            content = read_file(folder / name)
            if all(word in content for word in words):
                return True
    return False


class FilesSource:
    """A file of rows, or a folder of them."""

    def __init__(self, path: Path, files: Sequence[Path], data: DataSection) -> None:
        self._data = data
        self._root = path if path.is_dir() else path.parent
        self._maps: dict[Path, ColumnMap] = {}
        self.slug = path.resolve().name if path.is_dir() else path.name.partition(".")[0]
        splits = SplitNames(data.splits)
        self._files: dict[Split, list[Path]] = {}
        parts = [(str(file.relative_to(self._root)), self._names(file)) for file in files]
        splits.require_all((name for _, names in parts for name in names), str(path))
        for file, split in zip(files, splits.splits_of(parts, str(path)), strict=True):
            if split is not None:
                self._files.setdefault(split, []).append(file)
        self.resorted = splits.within

    def _names(self, file: Path) -> Sequence[str]:
        """What may say which split a file is of, the nearest first."""
        folders = file.relative_to(self._root).parts[:-1]
        whole = _ENDINGS.sub("", file.name)
        return [*dict.fromkeys((file.name.partition(".")[0], whole)), *reversed(folders)]

    @property
    def former(self) -> str:
        """A digest without the images that stand in other columns of Parquet than of plain text."""
        return self._digest(plainly=True)

    @property
    def fingerprint(self) -> str:
        """A digest of the files and of the images that their rows name."""
        return self._digest(plainly=False)

    def _digest(self, *, plainly: bool) -> str:
        files = [file for files in self._files.values() for file in files]
        small = sum(file.stat().st_size for file in files) <= HASHED_BYTES
        return contents_digest(self._root, files, self._referenced(plainly) if small else ())

    def sizes(self) -> Mapping[Split, int]:
        found: dict[Split, int] = {}
        for split, files in self._files.items():
            for file in files:
                if self._counts[file]:
                    self._columns(file)
                    found[split] = found.get(split, 0) + self._counts[file]
        return found

    def rows(self, split: Split, start: int = 0, wanted: Wanted = every) -> Iterator[SourceRow]:
        before = 0
        for file in self._files[split]:
            count = self._counts[file]
            numbers = range(min(before + max(0, start - before), before + count), before + count)
            if any(map(wanted, numbers)):
                yield from self._rows_of(file, split, numbers, before, wanted)
            before += count

    def ids(self, split: Split) -> Iterator[str]:
        before = 0
        for file in self._files[split]:
            count = self._counts[file]
            own = (f"{split}-{number}" for number in range(before, before + count))
            before += count
            names = self._columns(file) if count else None
            if names is None or names.id is None:
                yield from own
                continue
            head = [name for name in (names.id, names.id.partition(".")[0]) if name in names.read]
            for own_id, record in zip(own, _reader(file).records(head[:1]), strict=False):
                yield own_id if record.defect else id_of_columns(record.columns, names, own_id)

    def _rows_of(
        self, file: Path, split: Split, numbers: range, before: int, wanted: Wanted
    ) -> Iterator[SourceRow]:
        """Rows of a file whose first row has the number `before` in its split."""
        names = self._columns(file)
        name = printable(file.relative_to(self._root).as_posix())
        images = ImageFiles(file.parent, [self._root])

        def inside(index: int) -> bool:
            return wanted(before + index)

        chosen = every if wanted is every else inside
        records = _reader(file).records(names.read, numbers.start - before, chosen)
        for number, record in zip(filter(wanted, numbers), records, strict=False):
            place, own_id = f"{name} {record.place}", f"{split}-{number}"
            if record.defect is not None:
                yield SourceRow(place, own_id, defect=record.defect)
                continue
            yield row_from_columns(
                record.columns,
                names,
                place=place,
                own_id=own_id,
                source=self.slug,
                files=images,
            )

    def require_columns(self) -> None:
        """Look at the head of each file: raises `DataError` where a column is missing.

        That takes a moment, whatever the size of the files.
        """
        for files in self._files.values():
            for file in files:
                try:
                    self._columns(file)
                except DataError:
                    if _reader(file).count():  # one without rows may be without columns
                        raise

    def _columns(self, file: Path) -> ColumnMap:
        if file not in self._maps:
            self._maps[file] = map_columns(self._data, _reader(file).columns(), str(file))
        return self._maps[file]

    @cached_property
    def _counts(self) -> Mapping[Path, int]:
        return {file: _reader(file).count() for files in self._files.values() for file in files}

    def _referenced(self, plainly: bool) -> Iterator[Path]:
        """The image files that rows name, in the rows' order."""
        for files in self._files.values():
            for file in files:
                if not self._counts[file]:
                    continue
                names, images = self._columns(file).images, ImageFiles(file.parent, [self._root])
                reader = _reader(file)
                heads = [name for name in self._columns(file).read if _is_head(name, names)]
                if reader.names_files(heads, plainly=plainly):
                    for record in reader.records(heads):
                        for name in image_paths(record.columns, names):
                            with suppress(BadColumn):
                                yield images.locate(name)


def _is_head(column: str, names: Sequence[str]) -> bool:
    """Whether any of `names` is the column, or a field in it (`figure.path`)."""
    return any(column in (name, name.partition(".")[0]) for name in names)


def _reader(file: Path) -> RecordFile:
    reader = record_file(file)
    if reader is None:
        raise DataError(f"{file} is no file of rows: Parquet, JSON lines or CSV.")
    return reader
