"""What a folder that takes an export may hold, who writes to it, and how a new one takes the place
of an old one.

One process writes to a folder at a time. What is new is written beside the old, in `.export.tmp`,
and moved when it is whole; the record goes first and comes last. So a process that is killed leaves
the old export, the new one, or a folder without a record, and who comes next clears what it left.
"""

import json
import re
import shutil
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from visual_r1.errors import RunError, StorageError
from visual_r1.exports.record import (
    ADAPTER_FILES,
    CARD_NAME,
    MERGED,
    RECORD_NAME,
    REFERENCE_NAME,
    Export,
    read_record,
    write_record,
)
from visual_r1.models import hub_id
from visual_r1.storage import alone, put_aside, sync_folder

FRESH = ".export.tmp"
LOCK = ".lock"
# Of a merge, and of an older version's export.
_LEFT = (FRESH, f".{MERGED}.tmp", ".adapter.tmp")
# What `storage.replaced_whole` writes to: .adapter_config.json.2993.tmp
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[1-9]\d*\.tmp")


def require_same_base(there: Export, base_model: str, place: Path) -> None:
    """Raise `RunError` where a folder holds an export of another base model."""
    if hub_id(there.base_model) != hub_id(base_model):
        raise RunError(
            f"{place} holds an export of the base model {there.base_model}, and what is exported "
            f"is of {base_model}: choose another folder with --into, or move that one away."
        )


def require_room_for(base_model: str, folder: Path, names: Sequence[str] = ADAPTER_FILES) -> None:
    """Raise where `folder` holds what is no part of an export of the files `names`, nor of the one
    that is there, or an adapter of another base model: `StorageError` and `RunError`.

    What a process that was killed has left of an export is a part of it.
    """
    expected = _parts(folder, names)
    there = sorted(path.name for path in (folder.iterdir() if folder.is_dir() else ()))
    if foreign := [name for name in there if not _is_part(name, expected)]:
        raise StorageError(
            f"{folder} holds {foreign[0]}, which is no part of an adapter: choose an empty folder."
        )
    try:
        config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        other = config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return
    if isinstance(other, str) and hub_id(other) != hub_id(base_model):
        raise RunError(
            f"{folder} holds an adapter of the base model {other}, and what is exported is of "
            f"{base_model}: choose another folder."
        )


@contextmanager
def alone_in(place: Path, *, wait: bool = False, beside: bool = False) -> Generator[None]:
    """For the block no other process writes to the export in `place`, a folder made if need be.

    With `beside` it is not made, and the lock lies beside it: for who puts a whole folder there.
    Raises `RunError` where another does; with `wait` it is waited for. `StorageError` where the
    folder cannot be written.
    """
    lock = place.with_name(f".{place.name}{LOCK}") if beside else place / LOCK
    busy = f"The export in {place} is being written by another process"
    with alone(lock, busy, None if wait else "wait until that is done"):
        yield


def put_in_place(fresh: Path, place: Path, made: Export, *, damaged: bool = False) -> None:
    """Move all that is in `fresh` into the folder `place`, in the stead of the export there.

    For who is `alone_in` it. Of the old one nothing stays, whatever the new one has; the record
    comes last and vouches for what is there. With `damaged` the old adapter is put aside. Raises
    `StorageError`.
    """
    record = place / RECORD_NAME
    try:
        parts = _parts(place, [one.name for one in made.files]) | {made.adapter}
        if damaged:
            for path in filter(Path.exists, (record, place / made.adapter)):
                put_aside(path)
        record.unlink(missing_ok=True)
        sync_folder(place)  # before anything that it speaks of changes
        old = [path for path in place.iterdir() if _is_part(path.name, parts)]
        for path in old:
            if path.name not in (fresh.name, LOCK):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in sorted(fresh.iterdir()):
            path.rename(place / path.name)
        sync_folder(place)
    except OSError as error:
        raise StorageError(
            f"could not put the export into {place}: {error.strerror or error}. Give the same "
            "command again."
        ) from error
    write_record(place, made)
    with suppress(OSError):
        fresh.rmdir()


def _parts(folder: Path, names: Iterable[str]) -> set[str]:
    """What lies in a folder that holds an export of the files `names`, or the one that is there."""
    there, _ = read_record(folder.parent, folder.name)
    files = [*names, *ADAPTER_FILES, *(one.name for one in (there.files if there else ()))]
    parts = {Path(name).parts[0] for name in files}
    parts |= {CARD_NAME, MERGED, RECORD_NAME, REFERENCE_NAME, LOCK, *_LEFT}
    return parts


def _is_part(name: str, parts: set[str]) -> bool:
    left = _TEMPORARY.fullmatch(name)
    return name in parts or (left is not None and left["name"] in parts)
