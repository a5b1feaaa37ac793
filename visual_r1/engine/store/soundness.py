"""Whether what lies in a home folder is what was written there; changes nothing.

The record of a checkpoint carries size and digest of each of its files. A record from before
digests vouches for sizes alone: what it names is unverified, and used all the same where its
tensors can be those of a checkpoint: float32 numbers that are finite, whole counts of steps.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, cast

import numpy as np
from safetensors import SafetensorError
from safetensors import deserialize as deserialized  # pyright: ignore[reportUnknownVariableType]

from visual_r1.engine.store.home import MANIFEST, HomeFolder
from visual_r1.engine.store.records import CheckpointPath, CheckpointRecord, StoredFile, parse_path
from visual_r1.engine.types import SECOND_MOMENT, STEPS
from visual_r1.errors import StorageError
from visual_r1.hashing import content_digest, file_digest
from visual_r1.opening import read_file

TENSORS = ".safetensors"


class Tensor(TypedDict):
    """A tensor as safetensors gives it: the name of its type there, and its bytes."""

    dtype: str
    shape: list[int]
    data: bytearray


@dataclass(frozen=True)
class Finding:
    """A file of a home folder that is not known to be sound, and why."""

    file: Path
    what: str
    """Goes on where the file's name ends: "is missing"."""
    verdict: Literal["damaged", "unverified"] = "damaged"


def examine_home(home: Path) -> Iterator[Finding]:
    """Everything in an engine's home folder that is not sound; nothing for one that is.

    Reads every file that a record vouches for. Needs no engine and disturbs none.
    """
    folder = HomeFolder(home)
    for file, what in folder.unreadable_records():
        yield Finding(file, what)
    for manifest, record in folder.manifests():
        if isinstance(record, str):
            yield Finding(manifest, record)
        else:
            yield from examine_checkpoint(manifest.parent, record)


def examine_checkpoint(folder: Path, record: CheckpointRecord) -> Iterator[Finding]:
    """What is not sound of the files of a checkpoint."""
    for name, stored in sorted(record.files.items()):
        file = folder / name
        if (what := fault_of(file, stored)) is not None:
            yield Finding(file, what)
        elif not stored.digest:
            yield Finding(file, "was written before files had digests", "unverified")


def fault_of(file: Path, stored: StoredFile) -> str | None:
    """What is wrong with a file on the disk; None where it is as it was written.

    Of a file without a digest, None where it may be so.
    """
    if (wrong := wrong_size(file, stored)) is not None:
        return wrong
    try:
        if stored.digest:
            return _wrong_digest(file_digest(file), stored)
        found = tensors_in(read_file(file)) if file.suffix == TENSORS else None
    except OSError as error:
        return unreadable(error)
    return found if isinstance(found, str) else None


def fault_in(data: bytes, stored: StoredFile) -> str | None:
    """As `fault_of`, of a file's bytes that were read already."""
    if len(data) != stored.bytes:
        return f"has {len(data)} bytes, and {stored.bytes} were written"
    return _wrong_digest(content_digest(data), stored) if stored.digest else None


def wrong_size(file: Path, stored: StoredFile) -> str | None:
    """What can be told without reading the file: that it is gone, or has another size."""
    try:
        size = file.stat().st_size
    except OSError as error:
        return unreadable(error)
    return None if size == stored.bytes else f"has {size} bytes, and {stored.bytes} were written"


def tensors_in(data: bytes) -> list[tuple[str, Tensor]] | str:
    """The tensors of a file's bytes, each sound by itself, or what is wrong with one of them."""
    try:
        entries = cast("list[tuple[str, Tensor]]", deserialized(data))
    except SafetensorError as error:
        return f"is no file of tensors ({error})"
    faults = (_tensor_fault(name, entry) for name, entry in entries)
    return next((what for what in faults if what is not None), entries)


def _tensor_fault(name: str, entry: Tensor) -> str | None:
    """What is wrong with a tensor; None where nothing is.

    All are float32 and finite, Adam's second moments not negative; its count of steps is one int64
    that is not negative.
    """
    wanted = "I64" if name == STEPS else "F32"
    if entry["dtype"] != wanted:
        return f"holds {name} as {entry['dtype']} numbers, and they are {wanted} in a checkpoint"
    if name == STEPS:
        counts = np.frombuffer(entry["data"], np.int64)
        if entry["shape"] != [1] or counts[0] < 0:
            return f"holds {counts[:4].tolist()} as the count of optimizer steps"
        return None
    values = np.frombuffer(entry["data"], np.float32)
    if 0 in entry["shape"]:
        return f"holds {name} of the shape {entry['shape']}, with no numbers"
    # A sum is finite only where all of it is, and takes a tenth of the time.
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(values.sum()) and not np.isfinite(values).all():
            return f"holds numbers in {name} that are not finite"
    if name.startswith(SECOND_MOMENT) and values.min() < 0:
        return f"holds negative numbers in {name}, which are means of squares"
    return None


def unreadable(error: OSError) -> str:
    """The words for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"cannot be read ({error.strerror or error})"


def damaged(path: CheckpointPath, file: Path, what: str) -> str:
    """What a client is told of a checkpoint that is not what was written."""
    return (
        f"{path} is damaged: {file} {what}; load an earlier checkpoint of the run, or put that "
        "file back from a copy of your own and start the engine again."
    )


def _wrong_digest(found: str, stored: StoredFile) -> str | None:
    if found == stored.digest:
        return None
    return f"has the digest {found}, and {stored.digest} was written: something changed it since"


def tensor_fingerprints(home: Path, path: str) -> dict[str, str]:
    """A digest of each tensor of the checkpoint at the `tinker://` path in the engine's `home`.

    Equal digests mean the same type, shape and bits; a state saved with its optimizer holds Adam's
    moments and step count too. Raises `StorageError` where the files are damaged or gone.
    """
    folder = HomeFolder(home)
    manifest = folder.checkpoint_folder(parse_path(path)) / MANIFEST
    record = folder.read_record(manifest)
    if isinstance(record, str):
        raise StorageError(
            f"{path} cannot be read: {manifest} {record}; it was damaged, was deleted or expired."
        )
    found: dict[str, str] = {}
    for name, stored in sorted(record.files.items()):
        file = manifest.parent / name
        if file.suffix != TENSORS:
            continue
        try:
            data = read_file(file)
        except OSError as error:
            raise StorageError(f"{path} is not whole: {file} {unreadable(error)}.") from error
        tensors = fault_in(data, stored) or tensors_in(data)
        if isinstance(tensors, str):
            raise StorageError(f"{path} is damaged: {file} {tensors}.")
        for tensor, entry in tensors:
            form = f"{entry['dtype']}{entry['shape']}".encode()
            found[tensor] = hashlib.blake2b(form + entry["data"]).hexdigest()
    if not found:
        raise StorageError(f"{path} has no tensors in {manifest.parent}.")
    return found
