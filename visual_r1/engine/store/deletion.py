"""Checkpoints by the run that they belong to, for who wants them gone."""

from visual_r1.engine.store.budget import run_names
from visual_r1.engine.store.records import CheckpointRecord, session_of
from visual_r1.engine.store.store import CheckpointNotFound, Store


def delete_run(store: Store, name: str) -> list[CheckpointRecord]:
    """Remove all checkpoints of the run of that name; returns what they were.

    Raises `CheckpointNotFound` where there is none, with the names that there are.
    """
    names = run_names(store.sessions())
    owned = [(names.get(session_of(one.path.model_id)), one) for one in store.checkpoints()]
    found = [one for owner, one in owned if owner == name]
    if not found:
        there = ", ".join(sorted({owner for owner, _ in owned if owner is not None}))
        raise CheckpointNotFound(
            f"no run {name!r} has checkpoints in {store.home.path}; those that have: "
            f"{there or 'none with a name'}."
        )
    for one in found:
        store.delete(one.path)
    return found
