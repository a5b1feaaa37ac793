"""Parquet files in this project's schema or that of `hiyouga/geometry3k`.

Columns: `problem`, `answer`, and `images` (a list of {bytes, path}) or `image`; `id`, `choices`,
`source` and `meta` (a JSON string) where they are there. Without ids a row is known by its split
and number. A file belongs to the split that its name, or its folder's name, begins with.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from visual_r1.data.rows import SourceRow
from visual_r1.data.sources.columns import row_from_columns
from visual_r1.data.sources.source import Split, contents_digest, split_of
from visual_r1.data.tables import column_names, group_sizes, read_rows
from visual_r1.errors import DataError

NEEDED = ("problem", "answer")
_NOT_DATA = ("rejected.parquet",)


class ParquetSource:
    """A Parquet file, or a folder of them."""

    def __init__(self, path: Path) -> None:
        self._root = path if path.is_dir() else path.parent
        self._files = _files_by_split(path)
        self.slug = path.resolve().stem if path.is_file() else path.resolve().name

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether there are Parquet files at `path`."""
        return bool(_files_by_split(path))

    @property
    def fingerprint(self) -> str:
        """A digest of the files."""
        return contents_digest(self._root, (f for files in self._files.values() for f in files))

    def sizes(self) -> Mapping[Split, int]:
        return {
            split: sum(sum(group_sizes(_checked(file))) for file in files)
            for split, files in self._files.items()
        }

    def rows(self, split: Split, start: int = 0) -> Iterator[SourceRow]:
        before = 0
        for file in self._files[split]:
            name = file.relative_to(self._root).as_posix()
            count = sum(group_sizes(_checked(file)))
            first = min(max(0, start - before), count)
            for index, columns in enumerate(read_rows(file, first), first):
                yield row_from_columns(
                    columns,
                    place=f"{name} row {index}",
                    own_id=f"{split}-{before + index}",
                    source=self.slug,
                    root=self._root,
                )
            before += count


def _files_by_split(path: Path) -> dict[Split, list[Path]]:
    if path.is_file():
        return {split_of(path.name) or "train": [path]} if path.suffix == ".parquet" else {}
    found: dict[Split, list[Path]] = {}
    for file in sorted(path.rglob("*.parquet")):
        if file.name in _NOT_DATA or any(
            part.startswith(".") for part in file.relative_to(path).parts
        ):
            continue
        split = split_of(file.name) or split_of(file.parent.name) or "train"
        found.setdefault(split, []).append(file)
    return found


def _checked(file: Path) -> Path:
    """The file, its columns checked."""
    names = column_names(file)
    missing = [name for name in NEEDED if name not in names]
    if not {"images", "image"} & set(names):
        missing.append("images")
    if missing:
        raise DataError(
            f"{file} has no column {' and no '.join(repr(name) for name in missing)} (it has "
            f"{', '.join(names)}); problems need images, problem and answer."
        )
    return file
