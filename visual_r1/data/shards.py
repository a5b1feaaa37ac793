"""Problems to Parquet shards, a row group at a time, so that memory holds one row group."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from visual_r1.data.problem import Problem
from visual_r1.data.tables import PROBLEM_SCHEMA, GroupWriter
from visual_r1.storage import sync_folder

SHARD_BYTES = 256 * 2**20


class SplitWriter:
    """The shards of one split: `train-00000-of-00002.parquet`, ... Use it as a context."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder = folder
        self._split = split
        self._open: GroupWriter | None = None
        self._paths: list[Path] = []
        self.rows = 0

    def write(self, problem: Problem) -> None:
        """Add one problem."""
        if self._open is not None and self._open.written_bytes >= SHARD_BYTES:
            self._open.close()
            self._open = None
        if self._open is None:
            # Not ".parquet" yet: how many shards there will be is known at the end.
            path = self._folder / f"{self._split}-{len(self._paths):05d}.part"
            self._paths.append(path)
            self._open = GroupWriter(path, PROBLEM_SCHEMA)
        row = problem_row(problem)
        size = sum(len(data) for data in problem.images) + len(row["problem"]) + len(row["meta"])
        self._open.write(row, size)
        self.rows += 1

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            if self._open is not None:
                self._open.abandon()
            return
        if self._open is not None:
            self._open.close()
        for index, path in enumerate(self._paths):
            name = f"{self._split}-{index:05d}-of-{len(self._paths):05d}.parquet"
            path.rename(self._folder / name)
        sync_folder(self._folder)


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
