"""Files that are there whole or not at all, and that are found out where they changed.

A JSON file is sealed: its last key is `checksum`, a digest of all the others, whatever their order
and spaces. Reading holds the content against it. A file without it is of an older version, or was
written by hand: it goes on, unverified.
"""

import errno
import itertools
import json
import os
import re
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from filelock import FileLock, Timeout
from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import from_json

from visual_r1.errors import RunError, StorageError
from visual_r1.hashing import content_digest
from visual_r1.opening import read_file
from visual_r1.printing import open_logger

logger = open_logger(__name__)

T = TypeVar("T")

SEAL = "checksum"
"""The last key of a JSON file, which holds the digest of the others."""

# Less than the smallest run writes: Prefect's records, the checkpoints, the report.
ROOM = 16 * 2**20

# What `replaced_whole` writes to: .metrics.jsonl.2993.tmp
_LEFTOVER = re.compile(r"\..+\.[1-9]\d*\.tmp")
_DIGEST = re.compile(r"[0-9a-f]{32}")


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


def put_aside(path: Path, folder: Path | None = None) -> Path:
    """Rename a damaged file or folder, so that another can take its place; where it is then.

    Hidden beside its place, or in `folder`, as `<name>.damaged-1`, `-2` and so on: it is never
    lost. Raises `StorageError` where the disk refuses it.
    """
    name, folder = (f".{path.name}", path.parent) if folder is None else (path.name, folder)
    numbers = itertools.count(1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = next(
            place
            for place in (folder / f"{name}.damaged-{number}" for number in numbers)
            if not place.exists()
        )
        path.rename(aside)
        sync_folder(folder)
    except OSError as error:
        raise StorageError(
            f"could not put {path}, which is damaged, aside: {error.strerror or error}. "
            "Move it away by hand and start the same command again."
        ) from error
    return aside


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON to `path`, sealed, whole or not at all."""
    content = {name: part for name, part in value.items() if name != SEAL}
    # What will be read is sealed: there a tuple is a list, and a number's name is a text.
    read = from_json(json.dumps(content, ensure_ascii=False))
    text = json.dumps(content | {SEAL: _seal_of(read)}, indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


class Sealed(NamedTuple):
    """What a JSON file holds but for its seal, and whether it has one; then it is as written."""

    content: Any
    is_sealed: bool


def read_sealed(path: Path) -> Sealed:
    """The content of a JSON file, held against its seal.

    Raises `OSError` where the file cannot be read, and `ValueError` in a line where it is no JSON
    or is not what was written.
    """
    text = read_file(path)
    try:
        content = from_json(text)
    except ValueError as error:
        raise ValueError(f"Invalid JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        return Sealed(content, is_sealed=False)
    rest = cast("dict[str, Any]", content)
    # A seal is known by what it says as well: its name may be what is damaged.
    name = SEAL if SEAL in rest else next(reversed(rest))
    said = rest[name]
    if name == SEAL or (isinstance(said, str) and _DIGEST.fullmatch(said)):
        rest = {key: value for key, value in rest.items() if key != name}
        found = _seal_of(rest)
        if name == SEAL and said == found:
            json.loads(text, object_pairs_hook=_each_once)
            return Sealed(rest, is_sealed=True)
        if name == SEAL or said == found:
            raise ValueError(f"its {SEAL} is {said!r}, and what it holds has {found!r}")
    return Sealed(content, is_sealed=False)


def read_json(path: Path, shape: TypeAdapter[T]) -> T:
    """What `write_json` left in `path`, as the type of `shape`.

    Fields that the type does not have are kept out: a newer version wrote them. Raises `OSError`
    where the file cannot be read, and `ValueError` with the first fault, in a line, where it is
    damaged, is not what was written, or lacks a field.
    """
    try:
        return shape.validate_json(json.dumps(read_sealed(path).content))
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error


def read_if_sound(path: Path, shape: TypeAdapter[T], otherwise: str) -> T | None:
    """As `read_json`, of what a run can do without: None where there is no file.

    None too where it is damaged, with a warning that says so, and what happens then: `otherwise`.
    """
    try:
        return read_json(path, shape)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s is damaged (%s): %s.", path, error, otherwise)
        return None


def first_fault(error: ValidationError) -> str:
    """What is wrong first, in a line, and where in the value."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else fault["msg"]


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises `ValueError` where a key stands in it twice: readers take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)!r} stands there twice")
    return found


def _seal_of(content: Any) -> str:
    return content_digest(json.dumps(content, sort_keys=True).encode())


def flat_in_the_file(*parts: str) -> BeforeValidator:
    """For the type of a `TypeAdapter` whose fields `parts` are types of their own, and whose file
    holds their fields among its own: each part then takes from there what it knows."""

    def with_parts(content: object) -> object:
        if not isinstance(content, dict):
            return content
        flat = cast("dict[str, Any]", content)
        return flat | dict.fromkeys(parts, flat)

    return BeforeValidator(with_parts)


@contextmanager
def alone(lock: Path, busy: str, otherwise: str | None = None) -> Generator[None]:
    """For the block no other process holds `lock`, a file whose folder is made if need be.

    Where another one does, `busy` says what it is at: it is waited for, with a warning, or, with
    `otherwise` to say what to do, a `RunError` is raised. Raises `StorageError` where the folder
    cannot be written.
    """
    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout as error:
        if otherwise is not None:
            raise RunError(f"{busy}: {otherwise}.") from error
        logger.warning("%s: it is waited for.", busy)
        held.acquire()
    except OSError as error:
        raise StorageError(
            f"could not write to {lock.parent}: {error.strerror or error}. Allow it, or choose "
            "another place."
        ) from error
    try:
        yield
    finally:
        held.release()
