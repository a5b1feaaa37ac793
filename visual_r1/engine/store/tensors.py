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
import torch
from safetensors import SafetensorError

from visual_r1.engine.store.home import ADAPTER_CONFIG, ADAPTER_FILE, STATE_FILE
from visual_r1.engine.store.records import CheckpointPath, StoredFile
from visual_r1.engine.store.soundness import fault_in, tensors_in, unreadable
from visual_r1.engine.store.store import Store
from visual_r1.engine.types import InvalidRequest
from visual_r1.opening import read_file

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
    """Write a file and flush it to disk. Raises `OSError` when that fails."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(  # pyright: ignore[reportUnknownMemberType]
            contiguous, str(file), metadata={"format": "pt"}
        )
    except SafetensorError as error:
        # What its half in Rust says of a full disk.
        raise OSError(str(error)) from error
    with file.open("rb") as written:
        os.fsync(written.fileno())


def load_state(store: Store, path: CheckpointPath) -> "dict[str, Tensor]":
    """All tensors of a training state, or of weights for sampling, checked while they are read.

    Raises `CheckpointNotFound`, and `CheckpointDamaged` where they are not what was written.
    """
    tensors = _tensors_in(store.read_file(path, STATE_FILE))
    if isinstance(tensors, str):
        raise store.found_damaged(path, STATE_FILE, tensors)
    return tensors


def read_ephemeral(file: Path, stored: StoredFile) -> "dict[str, Tensor]":
    """Weights of a sampler without a name. Raises `InvalidRequest` where they are damaged."""
    try:
        data = read_file(file)
        tensors = fault_in(data, stored) or _tensors_in(data)
    except OSError as error:
        tensors = unreadable(error)
    if isinstance(tensors, str):
        raise InvalidRequest(f"the weights of this sampler: {file} {tensors}; make it anew.")
    return tensors


def _tensors_in(data: bytes) -> "dict[str, Tensor] | str":
    """The tensors of a file's bytes, or what is wrong with them."""
    found: dict[str, Tensor] = {}
    entries = tensors_in(data)
    if isinstance(entries, str):
        return entries
    for name, entry in entries:
        dtype = torch.int64 if entry["dtype"] == "I64" else torch.float32
        found[name] = torch.frombuffer(entry["data"], dtype=dtype).view(entry["shape"])
    return found
