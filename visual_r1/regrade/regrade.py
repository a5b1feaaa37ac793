"""A run's stored responses, graded again: evaluations and rollouts, file by file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from visual_r1.errors import DataError, RunError
from visual_r1.evaluation.metrics import evaluation_folder, evaluation_names
from visual_r1.grading import GRADER_VERSION, Rounding
from visual_r1.progress import Progress, Silent
from visual_r1.regrade.changes import Change, merged
from visual_r1.regrade.evaluations import regrade_evaluation, responses_in
from visual_r1.regrade.files import RegradedFile, of_evaluation, of_rollouts
from visual_r1.regrade.golds import Thoughts
from visual_r1.regrade.graders import open_graders
from visual_r1.regrade.rollouts import regrade_rollouts, rollouts_in
from visual_r1.regrade.truths import Held, Truths
from visual_r1.runs.decisions import Decisions, read_decisions
from visual_r1.runs.folder import config_of_run
from visual_r1.runs.journal import ROLLOUTS, Journal
from visual_r1.runs.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Regraded:
    """What grading a run again came to.

    `evaluations` and `rollouts` are by the places of their results in the run's folder. `trouble`
    has a sentence for each file that was not graded, and why.
    """

    run: Path
    rounding: Rounding
    evaluations: Mapping[str, RegradedFile]
    rollouts: Mapping[str, RegradedFile]
    trouble: tuple[str, ...]
    grader_version: str = GRADER_VERSION

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes by kind, the most frequent first."""
        files = (*self.evaluations.values(), *self.rollouts.values())
        return merged(one.changes for one in files)

    @property
    def graded(self) -> int:
        """How many responses."""
        files = (*self.evaluations.values(), *self.rollouts.values())
        return sum(one.graded for one in files)


def regrade(run_dir: Path, progress: Progress | None = None, *, processes: int = 1) -> Regraded:
    """Grade all responses that the run in `run_dir` has stored, by the grader of now.

    Nothing that is there changes: results are files of their own, see `regrade.files`, and what is
    there of the same answers, grader and decisions is not made again. In more than one of
    `processes` where that is worth it; then the program that calls this has to stand under
    `if __name__ == "__main__"`. A file that is damaged, or whose gold answers are not to be had, is
    left out and named in `trouble`. Raises `RunError` where the folder holds no run, `StorageError`
    where the disk is full.
    """
    progress = progress or Silent()
    config = config_of_run(run_dir)
    truths = Truths(config.output_dir, read_decisions(config.output_dir))
    thoughts = Thoughts(config)
    folders = [evaluation_folder(run_dir, name) for name in evaluation_names(run_dir)]
    chunks = Journal(run_dir).chunks()
    expected = sum(map(responses_in, folders)) + sum(map(rollouts_in, chunks))
    progress.start(f"grade {run_dir.name} again", expected, "responses")
    evaluations: dict[str, RegradedFile] = {}
    rollouts: dict[str, RegradedFile] = {}
    trouble: list[str] = []
    with open_graders(processes, expected) as graders:
        for folder in folders:
            try:
                found = regrade_evaluation(folder, truths, thoughts, graders, progress)
            except DataError as error:
                trouble.append(str(error))
                continue
            evaluations[_place(of_evaluation(folder), run_dir)] = found
        ledger = Ledger(run_dir)
        digests, held = ledger.digests(), _held_by_training(ledger, truths)
        if chunks and held.dataset is None:
            trouble.append(
                f"{chunks[0].parent} is not graded again, for the gold answers are in the dataset. "
                f"{' '.join(truths.trouble.values()) or 'The ledger does not say which it was.'}"
            )
            chunks = []
        for chunk in chunks:
            place = f"{ROLLOUTS}/{chunk.name}"
            try:
                found = regrade_rollouts(
                    *(chunk, digests.get(place), config.reward.rounding),
                    *(held, thoughts, graders, progress),
                )
            except RunError as error:
                trouble.append(str(error))
                continue
            rollouts[_place(of_rollouts(chunk), run_dir)] = found
    done = Regraded(run_dir, config.reward.rounding, evaluations, rollouts, tuple(trouble))
    progress.finish(f"{done.graded} responses, {sum(one.count for one in done.changes)} changed")
    return done


def _held_by_training(ledger: Ledger, truths: Truths) -> Held:
    """The gold answers of the dataset that the run learns from, as the ledger names it."""
    rows = [line.row for line in ledger.read().sound]
    return truths.of(rows[-1].dataset_digest) if rows else Held(Decisions())


def _place(result: Path, run_dir: Path) -> str:
    return result.relative_to(run_dir).as_posix()
