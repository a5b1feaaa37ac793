"""`manifest.json`: written last, so that its presence means that a dataset folder is complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from visual_r1.errors import DataError
from visual_r1.storage import read_json, write_json

MANIFEST_FILE = "manifest.json"
# Part of every digest: raised when the same source would give other rows or another layout.
FORMAT_VERSION = 2


class StoredFile(BaseModel):
    """A file of the folder: its size in bytes and its rows."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    rows: int


class Manifest(BaseModel):
    """What a dataset folder holds.

    `counts` has train, validation, test and rejected. `duplicates` says how many of the rejected
    rows repeat a problem, how many do so with another answer, and how many repeats stayed in test
    and validation. `files` are those whose size is checked: the Parquet files. The card and its
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
    reasons: Mapping[str, int]
    files: Mapping[str, StoredFile]


_STORED = TypeAdapter(Manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, whole or not at all."""
    write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete dataset folder whose files are all there, in their full size.

    Raises `DataError` saying what is missing, and to prepare again.
    """
    path = folder / MANIFEST_FILE
    again = "prepare it again (the same command does)"
    try:
        manifest = read_json(path, _STORED)
    except OSError as error:
        raise DataError(
            f"{folder} is no complete dataset: {MANIFEST_FILE} cannot be read "
            f"({error.strerror}); {again}."
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); {again}.") from error
    for name, stored in manifest.files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != stored.bytes:
            there = "is missing" if size is None else f"has {size} bytes instead of {stored.bytes}"
            raise DataError(f"{file} {there}; {again}.")
    return manifest
