"""The rows that a run trains on: those of the split but for what `left_out.json` names.

The file is written when the run begins (`left_out`) and holds to its end: with other rows the
batches would be others.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from pydantic import BaseModel, ConfigDict, TypeAdapter

from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.data.problem import Problem
from visual_r1.data.shards import StoredProblems
from visual_r1.errors import RunError
from visual_r1.hashing import file_digest
from visual_r1.runs.ledger import LedgerRow
from visual_r1.storage import read_json

LEFT_OUT_FILE = "left_out.json"
KEY = "left_out"


class LeftOutRow(BaseModel):
    """A row of the training split that the run leaves out, and why."""

    model_config = ConfigDict(frozen=True)

    place: int
    id: str
    why: str


class LeftOut(BaseModel):
    """What `left_out.json` holds: of `rows` training rows those that do not fit `context`."""

    model_config = ConfigDict(frozen=True)

    dataset_digest: str
    context: int | None
    rows: int
    left_out: tuple[LeftOutRow, ...]


_STORED = TypeAdapter(LeftOut)


class KeptProblems(Sequence[Problem]):
    """The problems of a split without those at some places; the others move up."""

    def __init__(self, stored: StoredProblems, left_out: Sequence[int]) -> None:
        gone = set(left_out)
        self._stored = stored
        self._places = [place for place in range(len(stored)) if place not in gone]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        if isinstance(index, slice):
            return [self._stored[place] for place in self._places[index]]
        return self._stored[self._places[index]]

    def __iter__(self) -> Iterator[Problem]:
        return (self._stored[place] for place in self._places)

    def ids(self) -> list[str]:
        """The id of each problem; nothing else is read for it."""
        ids = self._stored.ids()
        return [ids[place] for place in self._places]

    def families(self) -> list[str]:
        """The family of each problem; no image is read for it."""
        families = self._stored.families()
        return [families[place] for place in self._places]


def training_problems(
    config: RunConfig, dataset: Dataset, start: LedgerRow | None
) -> StoredProblems | KeptProblems:
    """The training split without the rows that the run leaves out.

    `start` is the checkpoint that it goes on from. Raises `RunError` where `left_out.json` is
    damaged, or another than at that checkpoint: the batches would be others.
    """
    problems = dataset.problems("train")
    path = config.run_dir / LEFT_OUT_FILE
    places = [row.place for row in _read(path).left_out] if path.exists() else []
    if start is not None:
        then = start.digests.get(LEFT_OUT_FILE)
        count = start.carry.get(KEY, "0")
        if count != str(len(places)) or (then is not None and then != file_digest(path)):
            raise RunError(
                f"{path} does not name the {count} rows that were left out of training at the "
                f"checkpoint of step {start.step}: put the file back as it was, or choose another "
                "--run.name."
            )
    return KeptProblems(problems, places) if places else problems


def carried(problems: StoredProblems | KeptProblems, dataset: Dataset) -> dict[str, str]:
    """What a ledger row has to carry of the rows that are left out; nothing where none is."""
    count = len(dataset.problems("train")) - len(problems)
    return {KEY: str(count)} if count else {}


def _read(path: Path) -> LeftOut:
    try:
        return read_json(path, _STORED)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}, which names the rows that this run leaves out, cannot be read ({error}): put "
            "it back, or choose another --run.name."
        ) from error
