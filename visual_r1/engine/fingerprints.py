"""What stands in a saved state, tensor by tensor, without torch and without a server."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

from visual_r1.engine.naming import parse_path, split_model_id
from visual_r1.errors import StorageError


def tensor_fingerprints(home: Path, path: str) -> dict[str, str]:
    """A digest of each tensor of the checkpoint at the `tinker://` path in the engine's `home`.

    Equal digests mean the same type, shape and bits; a state saved with its optimizer holds Adam's
    moments and step count too. Raises `StorageError` where the files cannot be read.
    """
    parsed = parse_path(path)
    session, number = split_model_id(parsed.model_id)
    folder = home / "sessions" / session / f"train-{number}" / parsed.kind / parsed.name
    found: dict[str, str] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            for name, values in load_file(file).items():
                kind = f"{values.dtype.str}{values.shape}".encode()
                found[name] = hashlib.blake2b(kind + values.tobytes()).hexdigest()
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be read from {folder}: {error}.") from error
    if not found:
        raise StorageError(f"{path} has no tensors in {folder}: it was deleted or has expired.")
    return found
