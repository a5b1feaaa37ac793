"""Drawn problems with a response each, as a Parquet source that a cold start learns from."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from visual_r1.data import procedural
from visual_r1.data.problem import Problem, Split

COUNTS: dict[Split, int] = {"train": 24, "validation": 8, "test": 8}


def response(problem: Problem) -> str:
    """What the policy should write: another wording than what the shipped model was taught."""
    return f"<think>See: {problem.meta['solution']}</think><answer>{problem.answer}</answer>"


def write_solved(
    folder: Path,
    without: Iterable[int] = (),
    respond: Callable[[Problem], object] = response,
) -> Path:
    """A folder with a file a split; training rows `without` a response have none."""
    folder.mkdir(parents=True)
    missing = set(without)
    for split, count in COUNTS.items():
        rows = [
            {
                "id": problem.id,
                "images": [{"bytes": data, "path": None} for data in problem.images],
                "problem": problem.problem,
                "answer": problem.answer,
                "response": None if split == "train" and place in missing else respond(problem),
            }
            for place, problem in enumerate(procedural.generate(3, split, count))
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder
