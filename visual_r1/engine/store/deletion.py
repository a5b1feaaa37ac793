"""Checkpoints by the run that they belong to, for who wants them gone."""

from visual_r1.engine.store.budget import run_names
from visual_r1.engine.store.records import CheckpointPath, session_of
from visual_r1.engine.store.store import CheckpointNotFound, Store


def delete_run(store: Store, name: str) -> list[CheckpointPath]:
    """Remove all checkpoints of the run of that name, sound or damaged; returns their paths.

    Raises `CheckpointNotFound` where there is none, with the names that there are.
    """
    names = run_names(store.sessions())
    paths = [*(one.path for one in store.checkpoints()), *store.damaged_paths()]
    owned = [(names.get(session_of(path.model_id)), path) for path in paths]
    found = [path for owner, path in owned if owner == name]
    if not found:
        there = ", ".join(sorted({owner for owner, _ in owned if owner is not None}))
        raise CheckpointNotFound(
            f"no run {name!r} has checkpoints in {store.home.path}; those that have: "
            f"{there or 'none with a name'}."
        )
    for path in found:
        store.delete(path)
    return found
