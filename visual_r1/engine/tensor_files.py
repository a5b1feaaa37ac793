"""Tensors to and from safetensors files. Nothing is ever unpickled."""

import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from visual_r1.errors import StorageError


def size_of(tensors: Mapping[str, torch.Tensor]) -> int:
    """About the bytes of a file of these tensors."""
    return sum(tensor.nbytes for tensor in tensors.values())


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write `tensors` to `path` and flush them to disk. Raises `StorageError` when it fails."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(  # pyright: ignore[reportUnknownMemberType]
            contiguous, str(path), metadata={"format": "pt"}
        )
        with path.open("rb") as written:
            os.fsync(written.fileno())
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"could not write {path}: {error}. Free some space on that disk, or start the engine "
            "with another --home; nothing else was changed."
        ) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of `path` into memory. Raises `StorageError` when it cannot be read."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"could not read {path}: {error}. Load another checkpoint of the run."
        ) from error
