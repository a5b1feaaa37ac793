"""The tensors of a checkpoint as safetensors files. Nothing is ever pickled.

Apart from `home`, since safetensors brings torch with it for tensors of torch, and who only looks
into a home folder does without.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from safetensors import SafetensorError

from visual_r1.engine.store.home import ADAPTER_CONFIG, ADAPTER_FILE, STATE_FILE
from visual_r1.errors import StorageError

if TYPE_CHECKING:
    from torch import Tensor


def size_of(tensors: "Mapping[str, Tensor]") -> int:
    """About the bytes of a file of these tensors."""
    return sum(tensor.nbytes for tensor in tensors.values())


def write_state(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Put a training state, or weights for sampling, into a checkpoint's folder."""
    write_tensors(folder / STATE_FILE, tensors)


def write_adapter(folder: Path, config: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> None:
    """Put an adapter into a checkpoint's folder, in the form that PEFT loads."""
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    write_tensors(folder / ADAPTER_FILE, tensors)


def write_tensors(file: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write a file and flush it to disk. Raises `StorageError` when that fails."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(  # pyright: ignore[reportUnknownMemberType]
            contiguous, str(file), metadata={"format": "pt"}
        )
        with file.open("rb") as written:
            os.fsync(written.fileno())
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"could not write {file}: {error}. Free some space on that disk, or start the engine "
            "with another --home; nothing else was changed."
        ) from error


def read_tensors(file: Path) -> "dict[str, Tensor]":
    """Read all tensors of a file into memory. Raises `StorageError` when it cannot be read."""
    try:
        return safetensors.torch.load(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"could not read {file}: {error}. Load another checkpoint of the run."
        ) from error
