"""A run that is broken off while a person decides ends, bit for bit, as if nobody had."""

import json
from pathlib import Path

from trials.train_chunks import config
from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.progress import Silent
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.decisions import content_of_problem, record
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.journal import Journal, read_rollouts
from visual_r1.runs.labels import LABELS_FILE, settle_labels
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.proof import prove
from visual_r1.runs.resume import resume_point
from visual_r1.runs.run import Run
from visual_r1.runs.soundness import examine_run
from visual_r1.runs.validate import validate

STEPS = 2


def settings(folder: Path, name: str) -> RunConfig:
    """Chunks of one step, each over six of eight problems, and validation of what they leave."""
    base = config(folder).model_dump()
    base["run"] = {"name": name}
    base["train"] |= {"steps": STEPS, "chunk_steps": 1, "batch_size": 6, "group_size": 2}
    base["validation"] |= {"every": 2}
    return RunConfig.model_validate(base)


def decide(
    folder: Path, dataset: Dataset, split: str, place: int, kind: str, answer: str = ""
) -> None:
    one = dataset.problems(split)[place]  # type: ignore[arg-type]
    content = content_of_problem(one)
    record(folder, one.id, content, kind, gold=one.answer, answer=answer)  # type: ignore[arg-type]


def train(run: Run, row: LedgerRow | None, steps: int) -> LedgerRow:
    while row is None or row.step < steps:
        row = train_chunk(run, row)
    return row


def test_a_decision_made_meanwhile_changes_no_bit(
    folder: Path, backend: Backend, dataset: Dataset
) -> None:
    ids = dataset.problems("train").ids()
    decide(folder, dataset, "train", 1, "drop")
    decide(folder, dataset, "train", 3, "other", "-1")
    decide(folder, dataset, "validation", 0, "drop")
    runs: dict[str, Run] = {}
    for name in ("whole", "broken"):
        mine = settings(folder, name)
        with open_run_folder(mine) as run_dir:
            runs[name] = run = Run(mine, run_dir, dataset, backend, Silent())
            settle_labels(mine, dataset, begun=False)
            validate(run, None)
            train(run, None, STEPS if name == "whole" else 1)
    # The process of the one has died; a person goes on deciding; the next start goes on with it.
    decide(folder, dataset, "train", 1, "withdrawn")
    decide(folder, dataset, "train", 0, "drop")
    decide(folder, dataset, "train", 3, "gold")
    decide(folder, dataset, "validation", 1, "drop")
    broken = runs["broken"]
    with open_run_folder(broken.config):
        settle_labels(broken.config, dataset, begun=True)
        last = validate(broken, train(broken, resume_point(broken), STEPS))
    with open_run_folder(runs["whole"].config):
        other = validate(runs["whole"], Ledger(runs["whole"].folder).rows()[-1])

    rows = {name: Ledger(run.folder).rows()[-1] for name, run in runs.items()}
    weights = {name: backend.tensor_fingerprints(row.state_path) for name, row in rows.items()}
    assert weights["whole"] == weights["broken"]
    rollouts = {
        name: [
            row for path in Journal(run.folder).chunks() for row in read_rollouts(path).to_pylist()
        ]
        for name, run in runs.items()
    }
    assert rollouts["whole"] == rollouts["broken"]
    assert last is not None and other is not None
    assert (last.n, last.right) == (other.n, other.right) and last.n == 3

    asked = {row["problem_id"] for row in rollouts["whole"]}
    assert ids[1] not in asked and {ids[0], ids[3]} <= asked
    assert (broken.folder / LABELS_FILE).read_text() == (
        runs["whole"].folder / LABELS_FILE
    ).read_text()
    assert LABELS_FILE in rows["broken"].digests
    assert prove(broken).holds
    found = {one.file.name: one.verdict for one in examine_run(broken.folder, len(ids))}
    assert found[LABELS_FILE] == "sound"
    path = broken.folder / LABELS_FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "rows": []}))
    damaged = {one.file.name: one.verdict for one in examine_run(broken.folder, len(ids))}
    assert damaged[LABELS_FILE] == "damaged"


def test_the_answer_that_was_decided_is_what_is_right(
    folder: Path, backend: Backend, dataset: Dataset
) -> None:
    """What the policy answers most is called right of one problem: the grades say so."""
    seen = {
        row["problem_id"]: row
        for path in Journal(folder / "runs/whole").chunks()
        for row in read_rollouts(path).to_pylist()
    }
    relabelled = dataset.problems("train").ids()[3]
    assert seen[relabelled]["verdict"] == "wrong", "nobody answers -1"
