"""Checkpoints and the records of runs: whole or not at all, within the disk's budget.

Where they lie, and how a crash is survived: see `home`.
"""

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock, Timeout

from visual_r1.engine.store.budget import full, full_for_run, unwritten
from visual_r1.engine.store.ephemeral import EphemeralFiles
from visual_r1.engine.store.home import MANIFEST, REPLACED, HomeFolder
from visual_r1.engine.store.lifetimes import SteadyClock, at_start, expiry
from visual_r1.engine.store.records import (
    CHECKPOINT,
    CheckpointPath,
    CheckpointRecord,
    StoredFile,
    checkpoint_path,
)
from visual_r1.engine.store.register import Register
from visual_r1.engine.store.soundness import damaged, fault_in, fault_of, unreadable, wrong_size
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import EngineError, StorageError
from visual_r1.hashing import file_digest
from visual_r1.opening import read_file
from visual_r1.printing import open_logger
from visual_r1.storage import sync_folder

log = open_logger("visual_r1.engine")

Signature: TypeAlias = tuple[tuple[int, int, int], ...]
"""Of a checkpoint's files: what changes when one is written to."""


class CheckpointNotFound(InvalidRequest):
    """No checkpoint has this path: it was never finished, was deleted, or has expired."""


class CheckpointDamaged(CheckpointNotFound):
    """A checkpoint is there, and is not what was written: for a client it is as good as gone."""


class Store(Register):
    """The engine's home folder: its register of sessions and runs, and their checkpoints.

    Safe to use from several threads. One checkpoint is written at a time, and listings do not wait
    for it.
    """

    def __init__(
        self,
        home: Path,
        clock: Callable[[], datetime] | None = None,
        patience_s: float = 0.0,
        max_disk: int | None = None,
        *,
        of_run: bool = False,
    ) -> None:
        """Lock and read the folder; clear what a crash left half done, and what has expired.

        Another engine that holds the folder has `patience_s` to end. `max_disk` bounds the bytes
        of everything in the folder. With `of_run` the engine is a run's own: what is said when
        something fails then names what works there, and old lifetimes end (see `lifetimes`).
        Raises `EngineError` when another engine serves it, `StorageError` when it cannot be used.
        """
        super().__init__(HomeFolder(home), "--backend.engine_home" if of_run else "--home")
        self.clock = clock or SteadyClock()
        self.max_disk = max_disk
        self._of_run = of_run
        self._writing = threading.RLock()
        self._checkpoints: dict[CheckpointPath, CheckpointRecord] = {}
        self._damaged: dict[CheckpointPath, str] = {}
        """Checkpoints that are not what was written, and what a client is told of each."""
        self._sound: dict[CheckpointPath, Signature] = {}
        """Those whose bytes were checked, or written, by this process."""
        self._closed = False
        self._lock = FileLock(self.home.lock)
        try:
            self.home.sessions.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=patience_s)
            self.home.mend()
            self.read()
            self._read_checkpoints()
            shutil.rmtree(self.home.ephemeral, ignore_errors=True)
            self.home.ephemeral.mkdir()
        except Timeout as error:
            raise EngineError(
                f"another engine is serving the folder {home}: stop it, or choose another "
                f"{self.home_flag}."
            ) from error
        except OSError as error:
            raise StorageError(
                f"the engine's folder {home} cannot be used: {error.strerror or error}. "
                f"Choose another with {self.home_flag}."
            ) from error
        self.ephemeral = EphemeralFiles(self.home.ephemeral)
        self.sweep()

    def _read_checkpoints(self) -> None:
        now = self.clock()
        for manifest, record in self.home.manifests():
            if isinstance(record, str):
                self._note_damage(manifest, record)
                continue
            taken_over = at_start(record, now, of_run=self._of_run)
            self._checkpoints[record.path] = taken_over
            if taken_over != record:
                # On a full disk it is written down the next time.
                with suppress(StorageError):
                    self._write_record(taken_over)

    def _note_damage(self, manifest: Path, what: str) -> None:
        """Tell the log of a record that cannot be used; and who asks for it, where its place says
        what it was of."""
        log.warning("%s %s; the checkpoint is left as it is, and not listed.", manifest, what)
        kind, run, session = (manifest.parents[level].name for level in (1, 2, 3))
        with suppress(InvalidRequest):
            model_id = f"{session}:train:{run.removeprefix('train-')}"
            path = checkpoint_path(model_id, kind, manifest.parent.name)
            self._damaged[path] = damaged(path, manifest, what)

    def close(self, patience_s: float = 10.0) -> None:
        """Let a write in progress finish (or give it up after `patience_s`), then unlock."""
        if self._writing.acquire(timeout=patience_s):
            self._closed = True
            self._writing.release()
        shutil.rmtree(self.home.ephemeral, ignore_errors=True)
        self._lock.release()

    # -- checkpoints ---------------------------------------------------------------------------

    def write(
        self,
        record: CheckpointRecord,
        write_files: Callable[[Path], None],
        *,
        size_bytes: int = 0,
        overwrite: bool = False,
    ) -> CheckpointRecord:
        """Write a checkpoint: `write_files(folder)` puts its files there, the manifest comes last.

        `size_bytes` is about what they will take. Raises `InvalidRequest` when the name is taken
        and `overwrite` is not set, `StorageError` when the disk or its budget is full; then nothing
        of it stays.
        """
        folder = self.folder(record.path)
        unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        with self._writing, self._told_as_storage_error(folder):
            if self._closed:
                raise EngineError("the engine is stopping; this checkpoint was not written.")
            if not overwrite and self._find(record.path) is not None:
                raise InvalidRequest(
                    f"{record.path} exists already: choose another name"
                    + (" or pass overwrite=True." if record.path.kind == "weights" else ".")
                )
            self.make_room(size_bytes)
            try:
                unfinished.mkdir(parents=True)
                write_files(unfinished)
                files = {
                    file.name: StoredFile(file.stat().st_size, file_digest(file))
                    for file in sorted(unfinished.iterdir())
                }
                finished = replace(record, files=files)
                content = CHECKPOINT.dump_python(finished, mode="json")
                self.write_json(unfinished / MANIFEST, content)
                sync_folder(unfinished)
                with self._guard:
                    # One that was there is set aside until the new one has its name.
                    aside = folder.with_name(f"{REPLACED}{folder.name}")
                    if folder.exists():
                        folder.rename(aside)
                    unfinished.rename(folder)
                    sync_folder(folder.parent)
                    if aside.exists():
                        shutil.rmtree(aside)
                    self._checkpoints[record.path] = finished
                    self._sound[record.path] = self._signature(finished)
                    self._damaged.pop(record.path, None)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            return finished

    def make_room(self, size_bytes: int) -> None:
        """See that so many bytes fit into the budget.

        What has expired goes first, then weights of samplers without a name that nobody uses.
        Checkpoints that were promised to stay, for ever or until a time, are never deleted: raises
        `StorageError` with what its owner can delete.
        """
        if self.max_disk is None:
            return
        self.sweep()
        excess = self.home.used_bytes() + size_bytes - self.max_disk
        if excess <= 0:
            return
        self.ephemeral.free(excess)
        used = self.home.used_bytes()
        if used + size_bytes <= self.max_disk:
            return
        checkpoints = self.checkpoints()
        if not self._of_run:
            raise full(self.max_disk, used, size_bytes, checkpoints)
        raise full_for_run(
            self.max_disk, used, size_bytes, self.home.path, checkpoints, self.sessions()
        )

    def find(self, path: CheckpointPath) -> CheckpointRecord:
        """The checkpoint at `path`.

        Raises `CheckpointNotFound`, also when it has expired, and `CheckpointDamaged` where it is
        known to be; `check` finds that out.
        """
        record = self._find(path)
        if record is None and path in self._damaged:
            raise CheckpointDamaged(self._damaged[path])
        if record is None:
            raise CheckpointNotFound(
                f"there is no checkpoint {path} here: it was never finished, was deleted, "
                "or its time to live is over."
            )
        return record

    def check(self, path: CheckpointPath) -> CheckpointRecord:
        """As `find`, of a checkpoint whose files are what was written.

        They are read where this process has neither written nor read them as they now are. Raises
        `CheckpointDamaged`; from then on the checkpoint is as good as gone.
        """
        record = self.find(path)
        for name, stored in record.files.items():
            # What is gone or cut is found without reading, also where the rest was checked.
            if (what := wrong_size(self.folder(path) / name, stored)) is not None:
                raise self.found_damaged(path, name, what)
        signature = self._signature(record)
        if self._sound.get(path) == signature:
            return record
        for name, stored in record.files.items():
            if (what := fault_of(self.folder(path) / name, stored)) is not None:
                raise self.found_damaged(path, name, what)
        self._sound[path] = signature
        return record

    def read_file(self, path: CheckpointPath, name: str) -> bytes:
        """The bytes of a checkpoint's file, checked by its record.

        Raises `CheckpointNotFound`, `CheckpointDamaged`.
        """
        record = self.find(path)
        file = self.folder(path) / name
        stored = record.files.get(name)
        if stored is None:
            raise self.found_damaged(path, name, "is missing in the checkpoint's record")
        try:
            data = read_file(file)
        except OSError as error:
            raise self.found_damaged(path, name, unreadable(error)) from error
        if (what := fault_in(data, stored)) is not None:
            raise self.found_damaged(path, name, what)
        if not stored.digest:
            log.warning("%s was written before files had digests: it is used unverified.", file)
        return data

    def found_damaged(self, path: CheckpointPath, name: str, what: str) -> CheckpointDamaged:
        """Let a checkpoint count as gone from now on, and say why; its files stay for a look."""
        sentence = damaged(path, self.folder(path) / name, what)
        log.error("%s", sentence)
        with self._guard:
            self._checkpoints.pop(path, None)
            self._damaged[path] = sentence
        return CheckpointDamaged(sentence)

    def _signature(self, record: CheckpointRecord) -> Signature:
        folder = self.folder(record.path)
        found = [(folder / name).stat() for name in sorted(record.files)]
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)

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

    def damaged_paths(self) -> list[CheckpointPath]:
        """Those that are known not to be what was written; their files are still there."""
        with self._guard:
            return list(self._damaged)

    def copy(self, source: CheckpointPath, record: CheckpointRecord) -> CheckpointRecord:
        """Make `record` a checkpoint of the files of another; where the disk can, they are shared.

        Raises `CheckpointNotFound`, `CheckpointDamaged`, `StorageError`.
        """
        names = self.check(source).files
        folder = self.folder(source)

        def link(target: Path) -> None:
            for name in names:
                try:
                    os.link(folder / name, target / name)
                except OSError:
                    shutil.copyfile(folder / name, target / name)

        return self.write(record, link)

    def set_ttl(self, path: CheckpointPath, ttl_seconds: int | None) -> None:
        """Let the checkpoint end `ttl_seconds` from now, or never."""
        self._rewrite(path, expires_at=expiry(self.clock(), ttl_seconds), spared=False)

    def set_public(self, path: CheckpointPath, public: bool) -> None:
        """Mark the checkpoint as published or not; on one machine that changes nothing else."""
        self._rewrite(path, public=public)

    def delete(self, path: CheckpointPath) -> None:
        """Remove a checkpoint, sound or damaged. Raises `CheckpointNotFound`."""
        with self._guard:
            if path not in self._damaged:
                self.find(path)
            removed = self._take_away(path)
        shutil.rmtree(removed, ignore_errors=True)

    def sweep(self) -> None:
        """Remove from disk every checkpoint whose time to live is over."""
        with self._guard:
            now = self.clock()
            over = [path for path, record in self._checkpoints.items() if record.expired(now)]
            removed = [self._take_away(path) for path in over]
        for folder in removed:
            shutil.rmtree(folder, ignore_errors=True)

    def folder(self, path: CheckpointPath) -> Path:
        """Where the files of a checkpoint lie."""
        return self.home.checkpoint_folder(path)

    # -- inside --------------------------------------------------------------------------------

    def _find(self, path: CheckpointPath) -> CheckpointRecord | None:
        with self._guard:
            record = self._checkpoints.get(path) or self._brought(path)
            return None if record is None or record.expired(self.clock()) else record

    def _brought(self, path: CheckpointPath) -> CheckpointRecord | None:
        """A checkpoint that was put into the folder since it was read, see `brought`."""
        manifest = self.folder(path) / MANIFEST
        if path in self._damaged or not manifest.is_file():
            return None
        record = self.home.read_record(manifest)
        if isinstance(record, str):
            self._note_damage(manifest, record)
            return None
        self._checkpoints[path] = record
        return record

    def _rewrite(self, path: CheckpointPath, **changes: object) -> None:
        with self._guard:
            changed = replace(self.find(path), **changes)  # pyright: ignore[reportArgumentType]
            self._write_record(changed)
            self._checkpoints[path] = changed

    def _write_record(self, record: CheckpointRecord) -> None:
        content = CHECKPOINT.dump_python(record, mode="json")
        self.write_json(self.folder(record.path) / MANIFEST, content)

    def _take_away(self, path: CheckpointPath) -> Path:
        """Let the checkpoint disappear from its place; returns the folder that is to be removed."""
        folder = self.folder(path)
        removed = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.gone")
        with self._told_as_storage_error(folder):
            # Someone may have removed the folder by hand: then it is gone as well.
            with suppress(FileNotFoundError):
                folder.rename(removed)
                sync_folder(folder.parent)
            for known in (self._checkpoints, self._damaged, self._sound):
                known.pop(path, None)
        return removed

    @contextmanager
    def _told_as_storage_error(self, folder: Path) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise unwritten(folder, error, self.home_flag) from error
