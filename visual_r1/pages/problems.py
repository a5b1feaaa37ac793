"""The problem that rollouts answer: from the dataset of the run, with its pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from visual_r1.data.manifest import fault, read_manifest
from visual_r1.data.problem import SPLITS, Problem
from visual_r1.data.shards import problem_of_row
from visual_r1.errors import DataError, VisualR1Error
from visual_r1.pages.queries import Session, names_of, parquet
from visual_r1.runs.ledger import Ledger


@dataclass(frozen=True, slots=True)
class StoredProblem:
    """A problem without its pictures, of which there are so many, and where it stands."""

    problem: Problem
    pictures: int
    split: str
    dataset: str


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    pictures: int
    problem: str
    answer: str
    choices: list[str]
    source: str
    meta: str
    filename: str


@dataclass(frozen=True, slots=True)
class _Picture:
    bytes: bytes
    filename: str


_ROWS, _PICTURES = TypeAdapter(_Row), TypeAdapter(_Picture)


def dataset_digest(run_dir: Path) -> str | None:
    """That of the dataset the run trains on; None where its ledger has no row yet."""
    rows = [line.row for line in Ledger(run_dir).read().sound]
    return rows[-1].dataset_digest if rows else None


def dataset_folder(run_dir: Path, digest: str) -> Path:
    """The dataset with this digest beside the runs; raises `DataError` where it is not there."""
    data = run_dir.absolute().parents[1] / "data"
    # A digest comes from an address here: it is compared with names, and made no part of one.
    named = sorted(data.glob("[!.]*/manifest.json"))
    found = [path.parent for path in named if path.parent.name.endswith(f"-{digest}")]
    if not digest or not found:
        raise DataError(
            f"the dataset {digest or 'of the run'} is not in {data}, so there are neither pictures "
            "nor questions: prepare it again, or copy it there."
        )
    return found[0]


def find_problem(session: Session, run_dir: Path, id: str) -> StoredProblem:
    """A problem of the run's dataset; raises `DataError` where there is none, or it is damaged."""
    digest = dataset_digest(run_dir)
    folder = dataset_folder(run_dir, digest or "")
    rows = session.rows(
        _ROWS,
        "SELECT id, len(images) AS pictures, problem, answer, choices, source, meta, filename "
        f"FROM {parquet('files', named=True)} WHERE id = $id LIMIT 1",
        {"files": names_of(_shards(folder)), "id": id},
    )
    if not rows:
        raise DataError(f"the dataset {folder} has no problem {id!r}.")
    row = rows[0]
    _require_sound(folder, Path(row.filename).name)
    values: dict[str, Any] = {"images": (), "meta": row.meta}
    for name in ("id", "problem", "answer", "choices", "source"):
        values[name] = getattr(row, name)
    try:
        problem = problem_of_row(values)
    except (ValueError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"the problem {id!r} in {row.filename} is damaged: {error}.") from error
    split = Path(row.filename).name.partition("-")[0]
    return StoredProblem(problem, row.pictures, split, digest or "")


def find_picture(session: Session, folder: Path, id: str, index: int) -> bytes | None:
    """A picture of a problem, as it is stored; None where there is none of this number."""
    rows = session.rows(
        _PICTURES,
        f"SELECT images[$index + 1].bytes AS bytes, filename FROM {parquet('files', named=True)} "
        "WHERE id = $id AND len(images) > $index LIMIT 1",
        {"files": names_of(_shards(folder)), "id": id, "index": index},
    )
    if not rows:
        return None
    _require_sound(folder, Path(rows[0].filename).name)
    return rows[0].bytes


def _shards(folder: Path) -> Sequence[Path]:
    names = read_manifest(folder, files=False).files
    return [folder / name for name in sorted(names) if name.partition("-")[0] in SPLITS]


def _require_sound(folder: Path, name: str) -> None:
    """Raise `DataError` where the shard is not as the manifest has it."""
    stored = read_manifest(folder, files=False).files[name]
    if found := fault(folder / name, stored):
        raise DataError(f"{folder / name} {found}; the run's next start prepares it again.")


def problem_or_why_not(
    session: Session, run_dir: Path, id: str
) -> tuple[StoredProblem | None, str]:
    """The problem, or a sentence that says why it cannot be shown: the samples are shown anyway."""
    try:
        return find_problem(session, run_dir, id), ""
    except VisualR1Error as error:
        return None, f"The problem cannot be shown: {error}"
