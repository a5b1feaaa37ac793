"""What a folder that is to take an export may hold: one of the same base model, or nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

from visual_r1.errors import RunError, StorageError
from visual_r1.exports.record import (
    ADAPTER_FILES,
    CARD_NAME,
    MERGED,
    RECORD_NAME,
    REFERENCE_NAME,
    Export,
)
from visual_r1.models import hub_id


def require_same_base(there: Export, base_model: str, place: Path) -> None:
    """Raise `RunError` where a folder holds an export of another base model."""
    if hub_id(there.base_model) != hub_id(base_model):
        raise RunError(
            f"{place} holds an export of the base model {there.base_model}, and what is exported "
            f"is of {base_model}: choose another folder with --into, or move that one away."
        )


def require_room_for(base_model: str, folder: Path, names: Sequence[str] = ADAPTER_FILES) -> None:
    """Raise where `folder` holds what is no part of an export of the files `names`, or an adapter
    of another base model: `StorageError` and `RunError`."""
    expected = {*names, *ADAPTER_FILES, CARD_NAME, MERGED, RECORD_NAME, REFERENCE_NAME}
    there = sorted(path.name for path in (folder.iterdir() if folder.is_dir() else ()))
    if foreign := [name for name in there if name not in expected]:
        raise StorageError(
            f"{folder} holds {foreign[0]}, which is no part of an adapter: choose an empty folder."
        )
    try:
        config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        other = config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return
    if isinstance(other, str) and hub_id(other) != hub_id(base_model):
        raise RunError(
            f"{folder} holds an adapter of the base model {other}, and what is exported is of "
            f"{base_model}: choose another folder."
        )
