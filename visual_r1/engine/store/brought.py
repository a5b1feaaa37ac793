"""Weights that no client of this engine trained, put into its home folder for sampling.

A session of their own holds them, whose id is a digest of what they are: so the same weights are
the same checkpoint, and are brought once. It is written beside the sessions and renamed to its
place, so that it is there whole or not at all, and an engine may serve the folder meanwhile: it
looks on the disk for a path that it does not know.
"""

import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from visual_r1.engine.store.home import MANIFEST, STATE_FILE, HomeFolder
from visual_r1.engine.store.records import (
    CHECKPOINT,
    RUN,
    SESSION,
    CheckpointPath,
    CheckpointRecord,
    RunRecord,
    SessionEnd,
    SessionRecord,
    StoredFile,
    checkpoint_path,
    model_id_of,
)
from visual_r1.engine.store.soundness import fault_of
from visual_r1.engine.store.tensors import write_state
from visual_r1.engine.types import LoraSpec
from visual_r1.errors import StorageError
from visual_r1.hashing import file_digest
from visual_r1.storage import put_aside, sync_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

NAME = "brought"
KEPT = timedelta(days=7)
"""Whoever wants them longer brings them again."""


def brought_path(digest: str) -> CheckpointPath:
    """Where weights with this digest (8 to 64 hex digits) are, or will be."""
    return checkpoint_path(model_id_of(digest, 0), "sampler_weights", NAME)


def is_there(home: Path, digest: str) -> bool:
    """Whether they are in the home folder as they were written; damaged ones are put aside."""
    folder, path = HomeFolder(home), brought_path(digest)
    place = folder.checkpoint_folder(path)
    if not place.exists():
        return False
    record = folder.read_record(place / MANIFEST)
    if not isinstance(record, str) and not any(
        fault_of(place / name, stored) for name, stored in record.files.items()
    ):
        return True
    put_aside(folder.sessions / digest, home)
    return False


def bring(
    home: Path, digest: str, base_model: str, spec: LoraSpec, tensors: "Mapping[str, Tensor]"
) -> CheckpointPath:
    """Put `tensors`, named as the engine names an adapter's of `spec`, into the home folder.

    Raises `StorageError` where the disk is full or refuses it; nothing of it stays then.
    """
    path, now = brought_path(digest), datetime.now(UTC)
    fresh = home / f"brought-{secrets.token_hex(4)}.tmp"
    target = HomeFolder(home).sessions / digest
    try:
        folder = fresh / "train-0" / path.kind / path.name
        folder.mkdir(parents=True)
        write_state(folder, tensors)
        state = folder / STATE_FILE
        record = CheckpointRecord(
            path=path,
            base_model=base_model,
            spec=spec,
            optimizer=False,
            created_at=now,
            expires_at=now + KEPT,
            files={STATE_FILE: StoredFile(state.stat().st_size, file_digest(state))},
        )
        write_json(folder / MANIFEST, CHECKPOINT.dump_python(record, mode="json"))
        run = RunRecord(path.model_id, base_model, spec, now)
        write_json(fresh / "train-0" / "run.json", RUN.dump_python(run, mode="json"))
        session = SessionRecord(digest, now, display_name=NAME, end=SessionEnd("success"))
        write_json(fresh / "session.json", SESSION.dump_python(session, mode="json"))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Over what an expired checkpoint of the same weights left: its session and run.
        shutil.rmtree(target, ignore_errors=True)
        with suppress(FileExistsError):  # another process has brought the same
            fresh.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise StorageError(
            f"the adapter could not be put into {home}: {error.strerror or error}. Free some "
            "space, or choose another folder with --backend.engine_home."
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return path
