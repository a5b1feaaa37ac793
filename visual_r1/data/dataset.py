"""Datasets: prepared once from a source, opened by their folder."""

import re
import shutil
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from visual_r1.config import DataSection, apart, differing_keys, without_later_defaults
from visual_r1.data.manifest import (
    CUT_VERSION,
    FORMAT_VERSION,
    FORMER_VERSION,
    MANIFEST_FILE,
    read_manifest,
)
from visual_r1.data.preparation import REJECTED_FILE, GivenUp, Preparation, damaged_shard
from visual_r1.data.preparation_state import PreparationState
from visual_r1.data.problem import SPLITS, Split
from visual_r1.data.shards import StoredProblems
from visual_r1.data.sizes import SplitSizes, read_sizes
from visual_r1.data.sources import open_source
from visual_r1.data.sources.source import Source, require_splits
from visual_r1.data.splits import was_cut
from visual_r1.data.state_file import STATE_FILE
from visual_r1.errors import DataError, StorageError
from visual_r1.hashing import digest as digest_of
from visual_r1.printing import open_logger
from visual_r1.progress import Progress, Silent
from visual_r1.storage import alone, put_aside, sync_folder

logger = open_logger("visual_r1.data")

_FEW = 3  # datasets that differ in more settings are others, and nobody takes one for the other


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

    def sizes(self, progress: Progress | None = None) -> Mapping[Split, SplitSizes]:
        """How large each problem is, by split; `progress` shows the reading of headers, where a
        dataset from before has to be measured first. Raises `DataError`."""
        shards = [name for name in self.files if name.partition("-")[0] in SPLITS]
        return read_sizes(self.folder, shards, self.counts, progress)

    def require(self, needs: Sequence[Split]) -> None:
        """Raise `DataError` where a split of `needs` has no problems."""
        sizes: dict[Split, int] = {split: self.counts.get(split, 0) for split in SPLITS}
        require_splits(f"the dataset {self.folder}", sizes, needs)


def folders_with(data_dir: Path, digest: str) -> list[Path]:
    """Where the dataset with this digest lies, by its name: its source need not be there."""
    return sorted(data_dir.glob(f"[!.]*-{digest}"))


def open_dataset(folder: Path) -> Dataset:
    """The dataset in `folder`. Raises `DataError` where it is not complete."""
    manifest = read_manifest(folder)
    return Dataset(folder, manifest.digest, manifest.counts, tuple(manifest.files))


def prepare(
    data: DataSection,
    output_dir: Path,
    progress: Progress | None = None,
    needs: Sequence[Split] = ("train",),
) -> Dataset:
    """The dataset of `data` in `output_dir/data`, made where it is not there in full.

    `needs` are the splits without which it is of no use: a set to evaluate on has no train.

    The folder's name ends in a digest of the source's contents and the settings, so a changed
    source makes another folder, and the old one stays. A preparation that was interrupted leaves
    nothing that looks complete, and goes on when it is called again: all is written in a hidden
    folder beside the dataset's, which is renamed at the end. One that is there and damaged is put
    aside, with a warning. Where a preparation is given up because of what was rejected,
    `<folder>-rejected.parquet` lists it.

    Raises:
        DataError: the source is wrong, or nothing in it can be used.
        StorageError: the folder cannot be written.
    """
    source = open_source(data)
    named = _there(data, source, output_dir) or _begun(data, source, output_dir)
    named = named or _new(data, source, output_dir)
    folder = named.folder
    present = _present(folder)
    if present is not None and _is_old(named, source):
        logger.warning(
            "%s was prepared when all rows of %s counted as train, %s among them, and goes on so; "
            "move it away to have it prepared by what their names say.",
            folder,
            data.source,
            ", ".join(source.resorted[:_FEW]),
        )
    if present is not None:
        # Killed after the last rename: nothing but the state of a finished preparation.
        shutil.rmtree(_partial(folder), ignore_errors=True)
        return present
    with _written(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _sole_preparation(folder):
            present = _present(folder)
            if present is None:
                _say_what_is_wrong(folder)
                _say_why_anew(folder, data)
                _build_beside(source, data, named, needs, progress or Silent())
    return present or open_dataset(folder)


def find_prepared(data: DataSection, output_dir: Path) -> Dataset | None:
    """The dataset where `prepare` would find it there in full. Raises `DataError`."""
    named = _there(data, open_source(data), output_dir)
    return None if named is None else _present(named.folder)


@dataclass(frozen=True, slots=True)
class _Named:
    """The folder of a dataset, the digest that its name ends in, and the version in that."""

    folder: Path
    digest: str
    version: int


def _name(data: DataSection, source: Source, output_dir: Path, *, version: int, of: str) -> _Named:
    """The name by a version, of a source with the fingerprint `of`."""
    written_out = data.model_dump(mode="json", exclude={"source", "max_rejected_share"})
    settings = without_later_defaults(data, written_out)
    digest = digest_of([version, source.slug, of, settings])
    return _Named(output_dir / "data" / f"{_slug(source)}-{digest}", digest, version)


def _slug(source: Source) -> str:
    return re.sub(r"[^a-z0-9]+", "-", source.slug.lower()).strip("-")[:60] or "dataset"


def _there(data: DataSection, source: Source, output_dir: Path) -> _Named | None:
    """The newest dataset of the source that is there, be it damaged; one of an older version is
    prepared anew as it was, so that a run that began with it has the same problems."""
    if not any((output_dir / "data").glob(f"{_slug(source)}-*")):
        return None
    fingerprint = source.fingerprint
    for version in (CUT_VERSION, FORMAT_VERSION):
        found = _name(data, source, output_dir, version=version, of=fingerprint)
        if found.folder.exists() and _can_be_again(found, source):
            return found
    former = source.former or fingerprint
    for version in (FORMAT_VERSION, FORMER_VERSION):
        before = _name(data, source, output_dir, version=version, of=former)
        if (before.folder / MANIFEST_FILE).exists() and _can_be_again(before, source):
            if former != fingerprint and version == FORMAT_VERSION:
                logger.warning(
                    "%s was prepared when nobody looked whether the images behind paths in %s had "
                    "changed, and goes on; move it away to have it prepared of what they are now.",
                    before.folder,
                    data.source,
                )
            return before
    return None


def _can_be_again(named: _Named, source: Source) -> bool:
    """Whether it is whole or can be made again as it was: not if its rows were sorted otherwise."""
    return not _is_old(named, source) or _present(named.folder) is not None


def _begun(data: DataSection, source: Source, output_dir: Path) -> _Named | None:
    """One of an older version whose preparation was killed and goes on as it was cut.

    What cannot go on is removed: nobody would come back to it.
    """
    if not any((output_dir / "data").glob(f".{_slug(source)}-*.partial")):
        return None
    new, fingerprint = _new(data, source, output_dir), source.fingerprint
    former = source.former or fingerprint
    for version, of in (
        (FORMAT_VERSION, fingerprint),
        (FORMAT_VERSION, former),
        (FORMER_VERSION, former),
    ):
        older = _name(data, source, output_dir, version=version, of=of)
        partial = _partial(older.folder)
        if older.digest == new.digest or not partial.exists():
            continue
        with _written(older.folder), _sole_preparation(older.folder):
            # The rows of the others are not those of today, or were sorted otherwise.
            same_rows = (version, of) == (FORMAT_VERSION, fingerprint) and not source.resorted
            if same_rows and not _fault_of(partial, source, cut=True):
                return older
            logger.warning("%s is of an older version and cannot go on: it is removed.", partial)
            shutil.rmtree(partial, ignore_errors=True)
    return None


def _is_old(named: _Named, source: Source) -> bool:
    """Whether it is from before the names of its source were read as they are now: in
    `CUT_VERSION` it was cut then."""
    if not source.resorted or named.version != CUT_VERSION:
        return bool(source.resorted)
    try:
        return bool(read_manifest(named.folder, files=False).cut)
    except DataError:
        return False


def _new(data: DataSection, source: Source, output_dir: Path) -> _Named:
    """The name of a dataset that is to be prepared; a new version only where rows are others."""
    version = FORMER_VERSION
    if source.former is not None:
        has = {split for split, size in source.sizes().items() if size}
        version = CUT_VERSION if has == {"train"} or source.resorted else FORMAT_VERSION
    return _name(data, source, output_dir, version=version, of=source.fingerprint)


def _present(folder: Path) -> Dataset | None:
    try:
        return open_dataset(folder)
    except DataError:
        return None


def _say_what_is_wrong(folder: Path) -> None:
    """Where a dataset is to be prepared though its folder is there."""
    try:
        if folder.exists():
            open_dataset(folder)
    except DataError as error:
        logger.warning("%s", error)


def _say_why_anew(folder: Path, data: DataSection) -> None:
    """Where a dataset of the same source is there that differs in little: in what."""
    spared = {"source", "max_rejected_share"}
    own = data.model_dump(mode="json", exclude=spared)
    found: list[tuple[int, str]] = []
    for path in sorted(folder.parent.glob(f"[!.]*/{MANIFEST_FILE}")):
        try:
            manifest = read_manifest(path.parent, files=False)
        except DataError:  # damaged: it says so where it is wanted
            continue
        there = {name: part for name, part in manifest.settings.items() if name not in spared}
        count = len(differing_keys(own, there))
        if manifest.source == data.source and count <= _FEW and path.parent != folder:
            differs = apart(own, there, "data.") or "content of the source"
            found.append((count, f"{folder} is prepared: another {differs} than {path.parent}."))
    if found and not _partial(folder).exists():
        logger.warning("%s", min(found)[1])


@contextmanager
def _written(folder: Path) -> Generator[None]:
    """What stops the folder from being written is a `StorageError`."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"the dataset folder {folder} could not be written: {reason}; free some space or "
            "choose another folder with --output-dir (what is done so far is kept, and the same "
            "command goes on)."
        ) from error


def _sole_preparation(folder: Path) -> AbstractContextManager[None]:
    """Two processes that want the same dataset: the second waits and finds it done."""
    lock = folder.parent / f".{folder.name}.lock"
    return alone(lock, f"another process prepares {folder}")


def _build_beside(
    source: Source,
    data: DataSection,
    named: _Named,
    needs: Sequence[Split],
    progress: Progress,
) -> None:
    """Build in a sibling of its folder, or go on building, then put it in its place."""
    folder = named.folder
    partial = _partial(folder)
    rejected = folder.with_name(f"{folder.name}-{REJECTED_FILE}")
    rejected.unlink(missing_ok=True)
    inside = partial / "dataset"
    if fault := _fault_of(partial, source):
        if partial.exists():
            logger.warning("%s: what was prepared of %s begins anew.", fault, folder)
            shutil.rmtree(partial)
        inside.mkdir(parents=True)
    try:
        whole = named.version == CUT_VERSION
        Preparation(
            source, data, named.digest, inside, partial, rejected, needs, whole_figures=whole
        ).run(progress)
    except DataError as error:
        # A source that could not be read to its end may be readable again: what is done stays.
        if isinstance(error, GivenUp) or not (partial / STATE_FILE).exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        aside = put_aside(folder)
        logger.warning("It was prepared anew; the damaged folder is %s now, to be deleted.", aside)
    inside.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(partial, ignore_errors=True)


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _fault_of(partial: Path, source: Source, *, cut: bool = False) -> str:
    """Why the preparation in `partial` cannot go on, or has not come to a `cut`; else empty."""
    path, inside = partial / STATE_FILE, partial / "dataset"
    if not path.is_file() or not inside.is_dir():
        return f"{partial} is no state of a preparation"
    try:
        with PreparationState(partial) as state:
            if not state.is_sound():
                return f"{path} is damaged: it is not as it was written"
            if was_cut(state) and {s for s, size in source.sizes().items() if size} != {"train"}:
                return f"{path} is of when all rows counted as train"
            if cut and not was_cut(state):
                return f"{path} has no cut"
            shard = damaged_shard(state, inside)
            return f"{shard} is damaged: it is not as it was written" if shard else ""
    except sqlite3.OperationalError:  # it cannot be read or written now, which may pass
        raise
    except sqlite3.DatabaseError as error:
        return f"{path} cannot be used ({error})"
