"""Checkpoints and the records of runs on disk: whole or not at all.

    {home}/engine.lock                                   held by the engine that serves it
    {home}/sessions/{session}/session.json
    {home}/sessions/{session}/train-{n}/run.json
    {home}/sessions/{session}/train-{n}/{kind}/{name}/   manifest.json and the checkpoint's files
    {home}/ephemeral/                                    weights of samplers without a name

A checkpoint is written under a hidden name and renamed when everything in it has reached the disk;
one that is removed is renamed to a hidden name first. Whatever hidden folder a crash leaves is
cleared when the engine starts, so a listed checkpoint is always complete.
"""

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from visual_r1.engine.naming import CheckpointKind, CheckpointPath, split_model_id
from visual_r1.engine.records import (
    CHECKPOINT_FORMAT,
    RUN_FORMAT,
    SESSION_FORMAT,
    CheckpointRecord,
    RunRecord,
    SessionRecord,
)
from visual_r1.engine.requests import InvalidRequest
from visual_r1.errors import EngineError, StorageError
from visual_r1.storage import sync_folder, write_text

MANIFEST = "manifest.json"
_KINDS: tuple[CheckpointKind, ...] = ("weights", "sampler_weights", "external_weights")
_REPLACED = ".replaced-"
_TTL_MAX = 10 * 366 * 24 * 3600


class CheckpointNotFound(InvalidRequest):
    """No checkpoint has this path: it was never finished, was deleted, or has expired."""


def now_utc() -> datetime:
    """The engine's clock."""
    return datetime.now(UTC)


def expiry(now: datetime, ttl_seconds: int | None) -> datetime | None:
    """When a checkpoint of that time to live ends. Raises `InvalidRequest` out of range."""
    if ttl_seconds is None:
        return None
    if not 1 <= ttl_seconds <= _TTL_MAX:
        raise InvalidRequest(
            f"ttl_seconds is {ttl_seconds}; it lies between 1 and {_TTL_MAX} (ten years), "
            "or is null for no end."
        )
    return now + timedelta(seconds=ttl_seconds)


class Store:
    """The engine's home folder. Safe to use from several threads."""

    def __init__(
        self, home: Path, clock: Callable[[], datetime] = now_utc, patience_s: float = 0.0
    ) -> None:
        """Lock and read the folder; clear what a crash left half done.

        Another engine that holds the folder has `patience_s` to end.
        Raises `EngineError` when another engine serves it, `StorageError` when it cannot be used.
        """
        self.home = home
        self.clock = clock
        self.ephemeral = home / "ephemeral"
        self._sessions_folder = home / "sessions"
        self._guard = threading.RLock()
        self._sessions: dict[str, SessionRecord] = {}
        self._runs: dict[str, RunRecord] = {}
        self._checkpoints: dict[CheckpointPath, CheckpointRecord] = {}
        self._closed = False
        self._lock = FileLock(home / "engine.lock")
        try:
            self._sessions_folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=patience_s)
            self._read_all()
            shutil.rmtree(self.ephemeral, ignore_errors=True)
            self.ephemeral.mkdir()
        except Timeout as error:
            raise EngineError(
                f"another engine is serving the folder {home}: stop it, or choose another --home."
            ) from error
        except OSError as error:
            raise StorageError(
                f"the engine's folder {home} cannot be used: {error.strerror or error}. "
                "Choose another with --home."
            ) from error

    def close(self, patience_s: float = 10.0) -> None:
        """Let a write in progress finish (or give it up after `patience_s`), then unlock."""
        if self._guard.acquire(timeout=patience_s):
            self._closed = True
            self._guard.release()
        shutil.rmtree(self.ephemeral, ignore_errors=True)
        self._lock.release()

    # -- sessions and runs ---------------------------------------------------------------------

    def add_session(self, record: SessionRecord) -> None:
        """Write a session down, once. Raises `StorageError`."""
        with self._guard:
            if record.session_id not in self._sessions:
                folder = self._sessions_folder / record.session_id
                write_text(folder / "session.json", SESSION_FORMAT.dump(record))
                self._sessions[record.session_id] = record

    def add_run(self, record: RunRecord) -> None:
        """Write a training run down. Raises `StorageError`."""
        with self._guard:
            write_text(self._run_folder(record.model_id) / "run.json", RUN_FORMAT.dump(record))
            self._runs[record.model_id] = record

    def sessions(self) -> list[SessionRecord]:
        """All sessions that made a model, newest first."""
        with self._guard:
            return sorted(self._sessions.values(), key=lambda s: s.created_at, reverse=True)

    def runs(self) -> list[RunRecord]:
        """All training runs, newest first."""
        with self._guard:
            return sorted(self._runs.values(), key=lambda run: run.created_at, reverse=True)

    def run(self, model_id: str) -> RunRecord | None:
        """The run of that id, if there is one."""
        with self._guard:
            return self._runs.get(model_id)

    # -- checkpoints ---------------------------------------------------------------------------

    def write(
        self,
        record: CheckpointRecord,
        write_files: Callable[[Path], None],
        *,
        overwrite: bool = False,
    ) -> CheckpointRecord:
        """Write a checkpoint: `write_files(folder)` puts its files there, the manifest comes last.

        Raises `InvalidRequest` when the name is taken and `overwrite` is not set, `StorageError`
        when the disk refuses; then nothing of it stays.
        """
        folder = self.folder(record.path)
        hidden = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        with self._guard, _told_as_storage_error(folder):
            self._refuse_when_closed()
            if not overwrite and self._find(record.path) is not None:
                raise InvalidRequest(
                    f"{record.path} exists already: choose another name"
                    + (" or pass overwrite=True." if record.path.kind == "weights" else ".")
                )
            try:
                hidden.mkdir(parents=True)
                write_files(hidden)
                sizes = {file.name: file.stat().st_size for file in sorted(hidden.iterdir())}
                finished = replace(record, files=sizes)
                write_text(hidden / MANIFEST, CHECKPOINT_FORMAT.dump(finished))
                sync_folder(hidden)
                self._put_in_place(hidden, folder)
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
            self._checkpoints[record.path] = finished
            return finished

    def find(self, path: CheckpointPath) -> CheckpointRecord:
        """The checkpoint at `path`. Raises `CheckpointNotFound`, also when it has expired."""
        with self._guard:
            record = self._find(path)
            if record is None:
                raise CheckpointNotFound(
                    f"there is no checkpoint {path} here: it was never finished, was deleted, "
                    "or its time to live is over."
                )
            return record

    def checkpoints(self, model_id: str | None = None) -> list[CheckpointRecord]:
        """The checkpoints of one run, or of all, newest first; expired ones are not among them."""
        with self._guard:
            now = self.clock()
            found = [
                record
                for record in self._checkpoints.values()
                if not record.expired(now) and model_id in (None, record.path.model_id)
            ]
            return sorted(found, key=lambda record: record.created_at, reverse=True)

    def set_ttl(self, path: CheckpointPath, ttl_seconds: int | None) -> None:
        """Let the checkpoint end `ttl_seconds` from now, or never."""
        self._rewrite(path, expires_at=expiry(self.clock(), ttl_seconds))

    def set_public(self, path: CheckpointPath, public: bool) -> None:
        """Mark the checkpoint as published or not; on one machine that changes nothing else."""
        self._rewrite(path, public=public)

    def delete(self, path: CheckpointPath) -> None:
        """Remove a checkpoint. Raises `CheckpointNotFound`."""
        with self._guard:
            self.find(path)
            self._remove(path)

    def sweep(self) -> None:
        """Remove from disk every checkpoint whose time to live is over."""
        with self._guard:
            now = self.clock()
            for path in [p for p, record in self._checkpoints.items() if record.expired(now)]:
                self._remove(path)

    def folder(self, path: CheckpointPath) -> Path:
        """Where the files of a checkpoint lie."""
        return self._run_folder(path.model_id) / path.kind / path.name

    # -- inside --------------------------------------------------------------------------------

    def _find(self, path: CheckpointPath) -> CheckpointRecord | None:
        record = self._checkpoints.get(path)
        return None if record is None or record.expired(self.clock()) else record

    def _rewrite(self, path: CheckpointPath, **changes: object) -> None:
        with self._guard:
            changed = replace(self.find(path), **changes)  # pyright: ignore[reportArgumentType]
            write_text(self.folder(path) / MANIFEST, CHECKPOINT_FORMAT.dump(changed))
            self._checkpoints[path] = changed

    def _remove(self, path: CheckpointPath) -> None:
        folder = self.folder(path)
        hidden = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.gone")
        del self._checkpoints[path]
        with _told_as_storage_error(folder):
            folder.rename(hidden)
            sync_folder(folder.parent)
        shutil.rmtree(hidden, ignore_errors=True)

    def _put_in_place(self, hidden: Path, folder: Path) -> None:
        """Rename `hidden` to `folder`; one that was there is set aside until that is done."""
        aside = folder.with_name(f"{_REPLACED}{folder.name}")
        if folder.exists():
            folder.rename(aside)
        hidden.rename(folder)
        sync_folder(folder.parent)
        if aside.exists():
            shutil.rmtree(aside)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise EngineError("the engine is stopping; this checkpoint was not written.")

    def _run_folder(self, model_id: str) -> Path:
        session_id, number = split_model_id(model_id)
        return self._sessions_folder / session_id / f"train-{number}"

    def _read_all(self) -> None:
        for file in self._sessions_folder.glob("*/session.json"):
            with _skipped_when_damaged():
                session = SESSION_FORMAT.load(file.read_bytes())
                self._sessions[session.session_id] = session
        for file in self._sessions_folder.glob("*/train-*/run.json"):
            with _skipped_when_damaged():
                run = RUN_FORMAT.load(file.read_bytes())
                self._runs[run.model_id] = run
        for kind in _KINDS:
            for kind_folder in self._sessions_folder.glob(f"*/train-*/{kind}"):
                _clear_hidden(kind_folder)
                self._read_checkpoints(kind_folder)

    def _read_checkpoints(self, kind_folder: Path) -> None:
        for manifest in kind_folder.glob(f"*/{MANIFEST}"):
            with _skipped_when_damaged():
                record = CHECKPOINT_FORMAT.load(manifest.read_bytes())
                folder = manifest.parent
                whole = all(
                    (folder / name).is_file() and (folder / name).stat().st_size == size
                    for name, size in record.files.items()
                )
                if whole and self.folder(record.path) == folder:
                    self._checkpoints[record.path] = record


def _clear_hidden(kind_folder: Path) -> None:
    """Finish or undo what a crash interrupted in the folder of one kind of checkpoint."""
    for hidden in kind_folder.glob(".*"):
        target = kind_folder / hidden.name.removeprefix(_REPLACED)
        if hidden.name.startswith(_REPLACED) and not target.exists():
            hidden.rename(target)
        else:
            shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _skipped_when_damaged() -> Generator[None]:
    """A record that cannot be read is left alone on disk and not listed."""
    try:
        yield
    except (ValidationError, InvalidRequest, OSError):
        return


@contextmanager
def _told_as_storage_error(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"could not write {folder}: {error.strerror or os.strerror(error.errno or 0)}. Free "
            "some space on that disk, or start the engine with another --home; "
            "nothing else was changed."
        ) from error
