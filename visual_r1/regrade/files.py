"""What grading again leaves on the disk: beside the old file, never in it.

    evaluations/final/regraded-4.parquet       the answers under version 4 of the grader
    evaluations/final/regraded-4.json          what changed, the figures before and after
    rollouts/regraded-4/chunk-00000.parquet    and .json, likewise

The record comes last and has the digests of both files, so what is half done is done again, and
what is done is found: it is made of the same answers, by the same grader, under the same decisions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from visual_r1.errors import DataError, VisualR1Error
from visual_r1.grading import GRADER_VERSION, Rounding
from visual_r1.hashing import file_digest
from visual_r1.regrade.changes import Change, Figures
from visual_r1.storage import read_json, write_json
from visual_r1.tables import open_table, said_of

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Basis:
    """What a file was graded again from, and by what. `source_digest` is of the old file's bytes,
    `decisions` the digest of the decisions about labels that held, `dataset` that of the dataset
    with the gold answers, empty where the predictions had them."""

    source: str
    source_digest: str
    rounding: Rounding
    dataset: str
    decisions: str
    grader_version: str = GRADER_VERSION
    version: int = _VERSION


@dataclass(frozen=True, slots=True)
class RegradedFile:
    """One file graded again, as its record holds it.

    `graded` counts responses, `not_graded` those that were left as they were, by the reason.
    `before` is by the stored verdicts, under the rounding of the run; `after` is by rounding.
    `steps` are the first and the last of rollouts. `other_reasons` counts verdicts that stayed and
    had another reason.
    """

    basis: Basis
    graded: int
    before: Figures
    after: Mapping[Rounding, Figures]
    changes: tuple[Change, ...]
    other_reasons: int = 0
    not_graded: Mapping[str, int] = field(default_factory=dict[str, int])
    dropped: int = 0
    decided: tuple[str, ...] = ()
    steps: tuple[int, int] | None = None
    result_digest: str = ""


_STORED = TypeAdapter(RegradedFile)


class Source:
    """A Parquet file that is graded again, and what it cannot be read for is said of it alone.

    Raises what `kind` is where the file is damaged.
    """

    def __init__(self, path: Path, way_out: str, kind: type[VisualR1Error]) -> None:
        self.path = path
        self._said = lambda: said_of(path, way_out, kind)
        with self._said(), open_table(path) as file:
            self.schema: Any = file.schema_arrow
            self.rows: int = file.metadata.num_rows
            self.digest = file_digest(path)

    @property
    def columns(self) -> list[str]:
        """Their names."""
        return self.schema.names

    def batches(self, columns: Sequence[str], size: int) -> Iterator[list[dict[str, Any]]]:
        """The rows, so many in memory at a time."""
        with self._said(), open_table(self.path) as file:
            for batch in file.iter_batches(batch_size=size, columns=list(columns)):
                yield batch.to_pylist()


def of_evaluation(folder: Path) -> Path:
    """Where an evaluation's answers are kept, graded by the grader of now."""
    return folder / f"regraded-{GRADER_VERSION}.parquet"


def of_rollouts(chunk: Path) -> Path:
    """Where a chunk's rollouts are kept, graded by the grader of now."""
    return chunk.parent / f"regraded-{GRADER_VERSION}" / chunk.name


def record_of(result: Path) -> Path:
    """The record of a file with results."""
    return result.with_suffix(".json")


def read_record(result: Path) -> RegradedFile:
    """The record of `result`, which is as it was written. Raises `DataError`."""
    path = record_of(result)
    try:
        found = read_json(path, _STORED)
        if file_digest(result) != found.result_digest:
            raise ValueError(f"{result} is another than it was written for")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): grade the run again.") from error
    return found


def done_before(result: Path, basis: Basis) -> RegradedFile | None:
    """What is there on this basis, whole; else None."""
    try:
        found = read_record(result)
    except DataError:
        return None
    return found if found.basis == basis else None


def write_record(result: Path, found: RegradedFile) -> None:
    """Write the record of a result that is there: it is complete with it."""
    content: dict[str, Any] = asdict(found)
    write_json(record_of(result), content)
