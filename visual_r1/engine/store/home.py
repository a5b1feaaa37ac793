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

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from visual_r1.engine.store.records import (
    CHECKPOINT,
    KINDS,
    RUN,
    SESSION,
    CheckpointPath,
    CheckpointRecord,
    RunRecord,
    SessionRecord,
    split_model_id,
)
from visual_r1.engine.types import InvalidRequest
from visual_r1.storage import clear_leftovers, read_json

Shape = TypeVar("Shape")

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
            if not isinstance(record := _record(file, SESSION), str):
                yield record

    def read_runs(self) -> Iterator[RunRecord]:
        """Every training run that can be read."""
        for file in self.sessions.glob("*/train-*/run.json"):
            if not isinstance(record := _record(file, RUN), str):
                yield record

    def read_checkpoints(self) -> Iterator[CheckpointRecord]:
        """Every checkpoint whose record can be read and whose files have the sizes in it."""
        for _, record in self.manifests():
            if not isinstance(record, str):
                yield record

    def manifests(self) -> Iterator[tuple[Path, CheckpointRecord | str]]:
        """The place of every checkpoint's record, and the record, or what is wrong with it.

        Of the files that it names only the sizes are looked at.
        """
        for kind in KINDS:
            for folder in sorted(self.sessions.glob(f"*/train-*/{kind}/[!.]*")):
                yield (manifest := folder / MANIFEST), self.read_record(manifest)

    def unreadable_records(self) -> Iterator[tuple[Path, str]]:
        """The records of sessions and runs that cannot be read, and why."""
        for file in sorted(self.sessions.glob("*/session.json")):
            if isinstance(what := _record(file, SESSION), str):
                yield file, what
        for file in sorted(self.sessions.glob("*/train-*/run.json")):
            if isinstance(what := _record(file, RUN), str):
                yield file, what

    def read_record(self, manifest: Path) -> CheckpointRecord | str:
        """The record of a checkpoint, or what is wrong with it or with its files' sizes."""
        record = _record(manifest, CHECKPOINT)
        if isinstance(record, str):
            return record
        try:
            if self.checkpoint_folder(record.path) != manifest.parent:
                return f"is that of {record.path}, which belongs elsewhere"
            for name, stored in record.files.items():
                if (size := (manifest.parent / name).stat().st_size) != stored.bytes:
                    return f"names {name} with {stored.bytes} bytes, and it has {size}"
        except InvalidRequest as error:
            return f"is damaged: {error}"
        except OSError as error:
            return f"names a file that cannot be read: {error.filename} ({error.strerror})"
        return record

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


def _record(file: Path, shape: TypeAdapter[Shape]) -> Shape | str:
    """A record, or what is wrong with it; it is left alone on disk."""
    try:
        return read_json(file, shape)
    except FileNotFoundError:
        return "is missing"
    except ValueError as error:
        return f"is damaged ({error})"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
