"""Files that are there whole or not at all."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from visual_r1.errors import StorageError

T = TypeVar("T")

# Less than the smallest run writes: Prefect's records, the checkpoints, the report.
ROOM = 16 * 2**20


# What `replaced_whole` writes to: .metrics.jsonl.2993.tmp
_LEFTOVER = re.compile(r"\..+\.[1-9]\d*\.tmp")


@contextmanager
def replaced_whole(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    A reader therefore sees the old file or the new one, never a half-written one, also after a
    crash of the machine. Raises `StorageError` when the disk is full or the folder refuses it; the
    old file then stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"could not write {path}: {error.strerror or error}. "
            "Free some space or choose another folder with --output-dir; nothing was lost."
        ) from error
    finally:
        # The write has succeeded or failed already: what is left of it must not hide that.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files that processes killed in `replaced_whole` left under `folder`.

    Only for who has the folder to itself: those of a process that is writing look the same.
    """
    for place, _, names in os.walk(folder):  # links to elsewhere are not followed
        for name in filter(_LEFTOVER.fullmatch, names):
            # One that cannot be removed harms nobody.
            with suppress(OSError):
                Path(place, name).unlink()


def require_room(folder: Path, size: int = ROOM) -> None:
    """Raise `StorageError` where no file of `size` bytes can be written in `folder`.

    The folder is made if need be, and nothing stays in it. For what starts with a full disk:
    Prefect's server would try to start for two minutes, and say nothing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(size))
            probe.flush()
    except OSError as error:
        why = error.strerror or str(error)
        what = f"less than {size // 2**20} MB can be written in {folder} ({why}): free some space"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = f"{folder.absolute()} cannot be written ({why}): allow it"
        raise StorageError(
            f"{what} or choose another folder with --output-dir; nothing was changed."
        ) from error


def sync_file(path: Path) -> None:
    """Flush a file that was written in pieces, so that what was appended survives a power cut."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replaced_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, shape: TypeAdapter[T]) -> T:
    """What `write_json` left in `path`, as the type of `shape`.

    Fields that the type does not have are kept out: a newer version wrote them. Raises `OSError`
    where the file cannot be read, and `ValueError` with the first fault, in a line, where it is
    damaged or lacks a field.
    """
    try:
        return shape.validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ValueError(f"{place}: {fault['msg']}" if place else fault["msg"]) from error


def flat_in_the_file(*parts: str) -> BeforeValidator:
    """For the type of a `TypeAdapter` whose fields `parts` are types of their own, and whose file
    holds their fields among its own: each part then takes from there what it knows."""

    def with_parts(content: object) -> object:
        if not isinstance(content, dict):
            return content
        flat = cast("dict[str, Any]", content)
        return flat | dict.fromkeys(parts, flat)

    return BeforeValidator(with_parts)
