"""The engine's home folder: where things lie in it, and what a crash leaves.

    {home}/engine.lock                                   held by the engine that serves it
    {home}/sessions/{session}/session.json
    {home}/sessions/{session}/train-{n}/run.json
    {home}/sessions/{session}/train-{n}/{kind}/{name}/   a checkpoint:
        manifest.json                                        what it is, and its files
        state.safetensors                                    of weights and sampler_weights
        adapter_config.json, adapter_model.safetensors       of external_weights, as PEFT names them
    {home}/ephemeral/                                    weights of samplers without a name

A checkpoint is written under a hidden name and renamed when everything in it has reached the disk;
one that is removed is renamed to a hidden name first. Whatever hidden folder a crash leaves is
cleared when the engine starts, so a listed checkpoint is always complete.

This is the one place that lays out paths; it reads without torch and without a server.
"""

import hashlib
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

from visual_r1.engine.store.records import (
    CHECKPOINT,
    KINDS,
    RUN,
    SESSION,
    CheckpointPath,
    CheckpointRecord,
    RunRecord,
    SessionRecord,
    parse_path,
    split_model_id,
)
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import StorageError
from visual_r1.storage import clear_leftovers, read_json

LOCK = "engine.lock"
MANIFEST = "manifest.json"
STATE_FILE = "state.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
REPLACED = ".replaced-"
"""What stands before the name of a checkpoint while another takes its place."""


class HomeFolder:
    """The paths in a home folder, and its records as they lie there. Changes nothing but `mend`."""

    def __init__(self, home: Path) -> None:
        """The folder need not be there yet."""
        self.path = home
        self.lock = home / LOCK
        self.sessions = home / "sessions"
        self.ephemeral = home / "ephemeral"

    def session_file(self, session_id: str) -> Path:
        """Where a session's record lies."""
        return self.sessions / session_id / "session.json"

    def run_file(self, model_id: str) -> Path:
        """Where a training run's record lies."""
        return self._run_folder(model_id) / "run.json"

    def checkpoint_folder(self, path: CheckpointPath) -> Path:
        """Where the files of a checkpoint lie."""
        return self._run_folder(path.model_id) / path.kind / path.name

    def state_file(self, path: CheckpointPath) -> Path:
        """Where the tensors of a training state, or of weights for sampling, lie."""
        return self.checkpoint_folder(path) / STATE_FILE

    def read_sessions(self) -> Iterator[SessionRecord]:
        """Every session that can be read."""
        for file in self.sessions.glob("*/session.json"):
            with _skipped_when_damaged():
                yield read_json(file, SESSION)

    def read_runs(self) -> Iterator[RunRecord]:
        """Every training run that can be read."""
        for file in self.sessions.glob("*/train-*/run.json"):
            with _skipped_when_damaged():
                yield read_json(file, RUN)

    def read_checkpoints(self) -> Iterator[CheckpointRecord]:
        """Every checkpoint that is whole."""
        for kind in KINDS:
            for manifest in self.sessions.glob(f"*/train-*/{kind}/*/{MANIFEST}"):
                with _skipped_when_damaged():
                    record = read_json(manifest, CHECKPOINT)
                    folder = manifest.parent
                    whole = all(
                        (folder / name).is_file() and (folder / name).stat().st_size == size
                        for name, size in record.files.items()
                    )
                    if whole and self.checkpoint_folder(record.path) == folder:
                        yield record

    def mend(self) -> None:
        """Finish or undo what a crash interrupted. Only for who holds the lock."""
        for kind in KINDS:
            for kind_folder in self.sessions.glob(f"*/train-*/{kind}"):
                for leftover in kind_folder.glob(".*"):
                    target = kind_folder / leftover.name.removeprefix(REPLACED)
                    if leftover.name.startswith(REPLACED) and not target.exists():
                        leftover.rename(target)
                    else:
                        shutil.rmtree(leftover, ignore_errors=True)
        clear_leftovers(self.sessions)

    def used_bytes(self) -> int:
        """Bytes of all files, those that several checkpoints share counted once."""
        sizes: dict[tuple[int, int], int] = {}
        for top in (self.sessions, self.ephemeral):
            for folder, _, names in os.walk(top):
                for name in names:
                    # A file may be removed, by its end, after the folder was listed.
                    with suppress(FileNotFoundError):
                        status = (Path(folder) / name).stat()
                        sizes[status.st_dev, status.st_ino] = status.st_size
        return sum(sizes.values())

    def _run_folder(self, model_id: str) -> Path:
        session_id, number = split_model_id(model_id)
        return self.sessions / session_id / f"train-{number}"


@contextmanager
def _skipped_when_damaged() -> Generator[None]:
    """A record that cannot be read is left alone on disk and not listed."""
    try:
        yield
    except (ValueError, InvalidRequest, OSError):
        return


def tensor_fingerprints(home: Path, path: str) -> dict[str, str]:
    """A digest of each tensor of the checkpoint at the `tinker://` path in the engine's `home`.

    Equal digests mean the same type, shape and bits; a state saved with its optimizer holds Adam's
    moments and step count too. Raises `StorageError` where the files cannot be read.
    """
    folder = HomeFolder(home).checkpoint_folder(parse_path(path))
    found: dict[str, str] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            for name, values in load_file(file).items():
                form = f"{values.dtype.str}{values.shape}".encode()
                found[name] = hashlib.blake2b(form + values.tobytes()).hexdigest()
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be read from {folder}: {error}.") from error
    if not found:
        raise StorageError(f"{path} has no tensors in {folder}: it was deleted or has expired.")
    return found
