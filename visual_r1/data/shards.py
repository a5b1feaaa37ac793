"""Problems to Parquet shards, a row group at a time, so that memory holds one row group."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from visual_r1.data.problem import Problem
from visual_r1.data.tables import PROBLEM_SCHEMA, GroupWriter, group_sizes, read_group
from visual_r1.storage import sync_folder

SHARD_BYTES = 256 * 2**20


def unfinished_shard(folder: Path, split: str, shard: int) -> Path:
    """Where a shard is until it is known how many its split has."""
    return folder / f"{split}-{shard:05d}.part"


def finished_shard(folder: Path, split: str, shard: int, shards: int) -> Path:
    """Where a shard is in the end: `train-00000-of-00002.parquet`."""
    return folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet"


def write_shard(path: Path, rows: Iterable[tuple[Mapping[str, Any], int]]) -> None:
    """Write rows of `PROBLEM_SCHEMA`, each with its size in bytes, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    with GroupWriter(temporary, PROBLEM_SCHEMA) as writer:
        for row, size in rows:
            writer.write(row, size)
    temporary.replace(path)
    sync_folder(path.parent)


def leave_out(path: Path, ids: Collection[str]) -> None:
    """Write a shard again without the problems that have these ids."""
    rows = (
        (row, sum(len(image["bytes"]) for image in row["images"]))
        for group in range(len(group_sizes(path)))
        for row in read_group(path, group).to_pylist()
        if row["id"] not in ids
    )
    write_shard(path, rows)


def problem_row(problem: Problem) -> dict[str, Any]:
    """A problem as a row of `PROBLEM_SCHEMA`."""
    return {
        "id": problem.id,
        "images": [{"bytes": data, "path": None} for data in problem.images],
        "problem": problem.problem,
        "answer": problem.answer,
        "choices": list(problem.choices),
        "source": problem.source,
        "meta": json.dumps(dict(problem.meta), ensure_ascii=False, default=str),
    }


def problem_of_row(row: Mapping[str, Any]) -> Problem:
    """The inverse of `problem_row`."""
    return Problem(
        id=row["id"],
        images=tuple(image["bytes"] for image in row["images"]),
        problem=row["problem"],
        answer=row["answer"],
        choices=tuple(row["choices"]),
        source=row["source"],
        meta=json.loads(row["meta"]),
    )
