"""The rows that a run trains on: those of the split but for what `left_out.json` names, and for
what a person dropped (`labels`).

Both files are written when the run begins and hold to its end: with other rows the batches would be
others.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.data.shards import KeptProblems, StoredProblems
from visual_r1.errors import RunError
from visual_r1.hashing import file_digest
from visual_r1.runs.labels import LABELS_FILE, labels_of_run
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
    """What `left_out.json` holds: of `rows` training rows those that do not fit `context`.

    `in_tags` says that a run that learns worked solutions puts them into the tags of its prompt
    template; runs that began before it was there learn them bare, to their end.
    """

    model_config = ConfigDict(frozen=True)

    dataset_digest: str
    context: int | None
    rows: int
    left_out: tuple[LeftOutRow, ...]
    in_tags: bool = False


_STORED = TypeAdapter(LeftOut)


def training_problems(
    config: RunConfig, dataset: Dataset, start: LedgerRow | None
) -> StoredProblems | KeptProblems:
    """The training split by the run's labels, without the rows that the run leaves out.

    Those are what does not fit, what a person dropped, and of a run that learns stored responses
    also what has another answer by now, for its response leads to the old one. `start` is the
    checkpoint that it goes on from. Raises `RunError` where `left_out.json` or `labels.json` is
    damaged, or another than at that checkpoint: the batches would be others.
    """
    problems = dataset.problems("train")
    unfit, labels = _unfit(config), labels_of_run(config.run_dir).of("train")
    gone = {*unfit, *labels.dropped}
    if config.sft.responses is not None:
        gone |= labels.answers.keys()
    if start is not None:
        path = config.run_dir / LABELS_FILE
        then = start.digests.get(LABELS_FILE)
        if then != (file_digest(path) if path.is_file() else None):
            raise RunError(
                f"{path} does not hold the decisions about labels by which the run had gone at the "
                f"checkpoint of step {start.step}: put the file back as it was, or choose another "
                "--run.name."
            )
        path = config.run_dir / LEFT_OUT_FILE
        then = start.digests.get(LEFT_OUT_FILE)
        count = start.carry.get(KEY, "0")
        now = file_digest(path) if path.is_file() else None
        if count != str(len(gone)) or (then is not None and then != now):
            raise RunError(
                f"{path} does not name the {count} rows that were left out of training at the "
                f"checkpoint of step {start.step}: put the file back as it was, or choose another "
                "--run.name."
            )
    return KeptProblems(problems, gone, labels.answers) if gone or labels.rows else problems


def carried(problems: StoredProblems | KeptProblems, dataset: Dataset) -> dict[str, str]:
    """What a ledger row has to carry of the rows that are left out; nothing where none is."""
    count = len(dataset.problems("train")) - len(problems)
    return {KEY: str(count)} if count else {}


def has_tags(config: RunConfig) -> bool:
    """Whether a supervised run puts worked solutions into tags. Raises as `training_problems`."""
    path = config.run_dir / LEFT_OUT_FILE
    return path.exists() and _read(path).in_tags


def _unfit(config: RunConfig) -> list[int]:
    path = config.run_dir / LEFT_OUT_FILE
    return [row.place for row in _read(path).left_out] if path.exists() else []


def _read(path: Path) -> LeftOut:
    try:
        return read_json(path, _STORED)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}, which names the rows that this run leaves out, cannot be read ({error}): put "
            "it back, or choose another --run.name."
        ) from error
