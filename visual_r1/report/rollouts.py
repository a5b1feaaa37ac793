"""Some rollouts of a run with their problems, for who shows what the policy writes.

Of each chunk the newest step, and of it the group that says most: one in which some samples are
right and some wrong, where there is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visual_r1.data.dataset import Dataset, open_dataset
from visual_r1.data.problem import Problem
from visual_r1.errors import DataError, RunError
from visual_r1.runs.journal import Journal, read_rollouts
from visual_r1.runs.ledger import Ledger
from visual_r1.tables import compute

_COLUMNS = (
    "step", "problem_id", "group", "sample", "response", "reward", "advantage", "verdict", "reason",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """The samples of one group, as rows of the rollouts, and their problem where it is known."""

    step: int
    problem_id: str
    problem: Problem | None
    samples: Sequence[dict[str, Any]]


def shown_groups(run_dir: Path, after: int = -1, most: int = 16) -> list[ShownGroup]:
    """A group of each chunk whose newest step comes after `after`, at most `most` of them.

    Where there are more, they are spread over the run. A chunk that is damaged has none.
    """
    chosen: list[tuple[int, str, list[dict[str, Any]]]] = []
    chunks = Journal(run_dir).chunks()
    for path in _spread(chunks if after < 0 else _newer(chunks, after), most):
        try:
            table = read_rollouts(path, _COLUMNS)
        except RunError:
            continue  # who verifies the run says so, and who goes on with it
        newest = compute.max(table["step"]).as_py()
        if newest is None or newest <= after:
            continue
        rows = table.filter(compute.equal(table["step"], newest)).to_pylist()
        groups: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(row["group"], []).append(row)
        best = max(groups.values(), key=_contrast)
        chosen.append((newest, best[0]["problem_id"], best))
    problems = _problems(run_dir, {ident for _, ident, _ in chosen})
    return [
        ShownGroup(step, ident, problems.get(ident), samples) for step, ident, samples in chosen
    ]


def _newer(chunks: Sequence[Path], after: int) -> list[Path]:
    """The chunks at the end that have steps after that one; of older ones none is opened."""
    found: list[Path] = []
    for path in reversed(chunks):
        try:
            if compute.max(read_rollouts(path, ["step"])["step"]).as_py() <= after:
                break
        except (RunError, TypeError):  # damaged, or empty
            continue
        found.append(path)
    return found[::-1]


def _contrast(samples: Sequence[dict[str, Any]]) -> int:
    right = sum(row["verdict"] == "right" for row in samples)
    return min(right, len(samples) - right)


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of them, the first and the last among them."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(at * (len(paths) - 1) / (most - 1))] for at in range(most)]


def _problems(run_dir: Path, ids: set[str]) -> dict[str, Problem]:
    """Those of the training split with these ids; none where the dataset is not there any more."""
    dataset = _dataset_of(run_dir) if ids else None
    if dataset is None:
        return {}
    try:
        stored = dataset.problems("train")
        return {one: stored[at] for at, one in enumerate(stored.ids()) if one in ids}
    except DataError:
        return {}


def _dataset_of(run_dir: Path) -> Dataset | None:
    """The dataset beside the run that its checkpoints were made of."""
    rows = Ledger(run_dir).read().sound
    for manifest in run_dir.absolute().parents[1].glob("data/*/manifest.json") if rows else ():
        try:
            found = open_dataset(manifest.parent)
        except DataError:
            continue
        if found.digest == rows[-1].row.dataset_digest:
            return found
    return None


def written_pictures(folder: Path, stem: str, pictures: Sequence[bytes]) -> list[str]:
    """Pictures as files, for a library that takes paths."""
    paths: list[str] = []
    for at, picture in enumerate(pictures):
        suffix = ".png" if picture.startswith(b"\x89PNG") else ".jpg"
        path = folder / f"{stem}-{at}{suffix}"
        path.write_bytes(picture)
        paths.append(str(path))
    return paths
