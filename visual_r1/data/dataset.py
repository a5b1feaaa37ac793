"""Datasets: prepared once from a source, opened by their folder."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from visual_r1.config import DataSection
from visual_r1.data.manifest import FORMAT_VERSION, read_manifest
from visual_r1.data.preparation import REJECTED_FILE, build
from visual_r1.data.sources import SPLITS, Source, Split, open_source
from visual_r1.data.stored import StoredProblems
from visual_r1.errors import DataError, StorageError
from visual_r1.hashing import digest as digest_of
from visual_r1.progress import Progress, Silent
from visual_r1.storage import sync_folder


@dataclass(frozen=True, slots=True)
class Dataset:
    """A complete dataset folder.

    `digest` stands for the source and the settings it was prepared from; `counts` has the number
    of problems of each split, and of rejected rows.
    """

    folder: Path
    digest: str
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    files: tuple[str, ...] = ()

    def problems(self, split: Split) -> StoredProblems:
        """The problems of a split by index, read from disk as they are wanted; may be empty."""
        if split not in SPLITS:
            raise DataError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}.")
        names = [name for name in self.files if name.startswith(f"{split}-")]
        return StoredProblems([self.folder / name for name in sorted(names)])


def open_dataset(folder: Path) -> Dataset:
    """The dataset in `folder`. Raises `DataError` where it is not complete."""
    manifest = read_manifest(folder)
    return Dataset(folder, manifest.digest, manifest.counts, tuple(manifest.files))


def prepare(data: DataSection, output_dir: Path, progress: Progress | None = None) -> Dataset:
    """The dataset of `data` in `output_dir/data`, made where it is not there in full.

    The folder's name ends in a digest of the source's contents and the settings, so a changed
    source makes another folder. A preparation that was interrupted leaves nothing that looks
    complete: all is written beside the folder and renamed at the end.

    Raises:
        DataError: the source is wrong, or nothing in it can be used.
        StorageError: the folder cannot be written.
    """
    source = open_source(data)
    digest = _digest(data, source)
    folder = output_dir / "data" / f"{_slug(source.slug)}-{digest}"
    present = _present(folder)
    if present is not None:
        return present
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that want the same dataset: the second waits and finds it done.
        with FileLock(folder.parent / f".{folder.name}.lock"):
            present = _present(folder)
            if present is None:
                _build_beside(source, data, folder, digest, progress or Silent())
    except OSError as error:
        raise StorageError(
            f"the dataset folder {folder} could not be written: {error.strerror or error}; free "
            "some space or choose another folder with --output-dir."
        ) from error
    return present or open_dataset(folder)


def _present(folder: Path) -> Dataset | None:
    try:
        return open_dataset(folder)
    except DataError:
        return None


def _build_beside(
    source: Source, data: DataSection, folder: Path, digest: str, progress: Progress
) -> None:
    """Build in a sibling of `folder`, then put it in its place."""
    partial = folder.with_name(f".{folder.name}.partial")
    damaged = folder.with_name(f".{folder.name}.damaged")
    for leftover in (partial, damaged):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    listed = folder.with_name(f"{folder.name}-{REJECTED_FILE}")
    listed.unlink(missing_ok=True)
    try:
        try:
            build(source, data, partial, digest, progress, listed)
        except DataError:
            # What is wrong with the rows outlives the folder that did not come about.
            if (partial / REJECTED_FILE).exists():
                (partial / REJECTED_FILE).replace(listed)
            raise
        if folder.exists():
            folder.rename(damaged)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        for leftover in (partial, damaged):
            shutil.rmtree(leftover, ignore_errors=True)


def _digest(data: DataSection, source: Source) -> str:
    settings = data.model_dump(mode="json", exclude={"source", "max_rejected_share"})
    return digest_of([FORMAT_VERSION, source.slug, source.fingerprint, settings])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "dataset"
