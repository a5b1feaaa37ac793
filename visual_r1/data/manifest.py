"""`manifest.json`: written last, so that its presence means that a dataset folder is complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from visual_r1.errors import DataError
from visual_r1.hashing import known_digest
from visual_r1.storage import read_json, write_json

MANIFEST_FILE = "manifest.json"
# Part of every digest: raised when the same source would give other rows or another layout. Version
# 3 knows the figures of Geometry3K, and lettered choices behind `Find C.`.
FORMAT_VERSION = 3
# A dataset of this version that is there goes on.
FORMER_VERSION = 2
# In place of `FORMAT_VERSION` in the digest of a set that is cut here: the cut keeps figures whole.
CUT_VERSION = 4
AGAIN = "prepare it again (the same command does)"


class StoredFile(BaseModel):
    """A file of the folder: its size in bytes, its rows, and the digest of its bytes.

    A dataset of an older version has no digests: its files are known by their sizes alone.
    """

    model_config = ConfigDict(frozen=True)

    bytes: int
    rows: int
    digest: str | None = None


class Manifest(BaseModel):
    """What a dataset folder holds.

    `counts` has train, validation, test and rejected. `duplicates` says how many of the rejected
    rows repeat a problem, how many do so with another answer, and how many repeats stayed in test
    and validation. `cut` is what `splits.Cut` tells, of a set that was cut here by its figures.
    `files` are those that are held against what stands here: the Parquet files. The card and its
    picture are not among them, and may be edited.
    """

    model_config = ConfigDict(frozen=True)

    format_version: int
    source: str
    digest: str
    settings: Mapping[str, Any]
    fingerprint: str
    created_at: str
    counts: Mapping[str, int]
    duplicates: Mapping[str, int] = Field(default_factory=dict[str, int])
    cut: Mapping[str, int] = Field(default_factory=dict[str, int])
    reasons: Mapping[str, int]
    files: Mapping[str, StoredFile]


_STORED = TypeAdapter(Manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, whole or not at all."""
    write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))


def read_manifest(folder: Path, *, files: bool = True) -> Manifest:
    """The manifest of a complete dataset folder whose files are all there, and as written.

    Each file is read once for that in a process, as long as nobody writes to it; with `files` false
    none is looked at. Raises `DataError` saying what is missing or damaged, and to prepare again.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = read_json(path, _STORED)
    except OSError as error:
        raise DataError(
            f"{folder} is no complete dataset: {MANIFEST_FILE} cannot be read "
            f"({error.strerror}); {AGAIN}."
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); {AGAIN}.") from error
    if files:
        for name, stored in manifest.files.items():
            if found := fault(folder / name, stored):
                raise DataError(f"{folder / name} {found}; {AGAIN}.")
    return manifest


def fault(file: Path, stored: StoredFile) -> str:
    """What is wrong with a file; empty where it is as written."""
    try:
        size = file.stat().st_size
        if size != stored.bytes:
            return f"has {size} bytes instead of {stored.bytes}"
        found = stored.digest and known_digest(file)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found != stored.digest:
        return f"is damaged: its digest is {found} instead of {stored.digest}"
    return ""
