"""The problems of a run on which the policy agrees against the gold answer, the least likely first.

Training problems by the rollouts, those of test, or of another split that somebody asked about, by
the answers of all evaluations, greedy and sampled. How unlikely it is that the policy would do so
if the label were right, `agreement` says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from visual_r1.data.dataset import Dataset
from visual_r1.data.problem import SPLITS, Split
from visual_r1.data.shards import StoredProblems
from visual_r1.disputes.agreement import Agreements
from visual_r1.disputes.answers import (
    Said,
    Verdict,
    judged,
    said_in_evaluations,
    said_in_rollouts,
)
from visual_r1.disputes.dispute import Dispute
from visual_r1.errors import DataError, RunError
from visual_r1.evaluation.deciding import Conditions
from visual_r1.evaluation.metrics import evaluation_folder, evaluation_names, read_report
from visual_r1.progress import Progress, Silent
from visual_r1.regrade.golds import Gold, Thoughts, dataset_with, golds_of
from visual_r1.runs.decisions import Decisions, content_of_problem, read_decisions
from visual_r1.runs.folder import config_of_run
from visual_r1.runs.labels import Labels
from visual_r1.runs.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Disputes:
    """The disputes of a run, the least likely first; `problems` is how many were answered, by
    split. `trouble` says what could not be looked at."""

    run: Path
    dataset: Path
    rows: tuple[Dispute, ...]
    problems: Mapping[Split, int]
    trouble: tuple[str, ...] = ()

    @property
    def open(self) -> tuple[Dispute, ...]:
        """Those about which nobody has decided yet."""
        return tuple(one for one in self.rows if one.decision is None)


def find_disputes(run_dir: Path, progress: Progress | None = None) -> Disputes:
    """The disputes of the run in `run_dir`, decided ones among them.

    A damaged file is left out and named. Raises `RunError` where the folder holds no run or nothing
    was answered, and `DataError` where the dataset is not there.
    """
    progress = progress or Silent()
    config = config_of_run(run_dir)
    decisions = read_decisions(config.output_dir)
    trouble: list[str] = []
    evaluations = _evaluations(run_dir, trouble)
    dataset = _dataset(run_dir, config.output_dir, evaluations)
    thoughts = Thoughts(config)
    said: dict[Split, dict[str, Said]] = {split: {} for split in SPLITS}
    try:
        said["train"] = said_in_rollouts(run_dir, thoughts)
    except RunError as error:
        trouble.append(str(error))
    for split, (name, asked) in product(SPLITS, evaluations.items()):
        # Those of a suite, or of other data than the run is of now, have ids of their own.
        if asked.split != split or asked.dataset_digest != dataset.digest:
            continue
        try:
            _add(said[split], said_in_evaluations(run_dir, [name], thoughts))
        except DataError as error:
            trouble.append(str(error))
    progress.start("count answers", sum(map(len, said.values())), "problems")
    found: list[Dispute] = []
    for split, answers in said.items():
        golds: Mapping[str, Gold] = golds_of(dataset, split, Labels()) if answers else {}
        verdicts: dict[str, Verdict] = {}
        for id, one in answers.items():
            if id in golds:
                verdicts[id] = judged(one, golds[id], config.reward.rounding)
            progress.advance()
        found += _disputes(split, verdicts, dataset.problems(split), decisions)
    found.sort(key=lambda one: (_last(one.p_value), one.right - one.agreeing, one.problem_id))
    progress.finish(f"{len(found)} in dispute")
    counts: dict[Split, int] = {split: len(answers) for split, answers in said.items()}
    return Disputes(run_dir, dataset.folder, tuple(found), counts, tuple(trouble))


def dataset_of_run(run_dir: Path, output_dir: Path) -> Dataset:
    """The dataset that the answers of a run are of: its ledger's, else that of the last evaluation.

    Raises `RunError` where nothing was answered, `DataError` where the dataset is not there.
    """
    return _dataset(run_dir, output_dir, _evaluations(run_dir, []))


def _dataset(run_dir: Path, output_dir: Path, evaluations: Mapping[str, Conditions]) -> Dataset:
    digests = [asked.dataset_digest for asked in evaluations.values()]
    digests += [line.row.dataset_digest for line in Ledger(run_dir).read().sound]
    if not digests:
        raise RunError(f"{run_dir} has no answers yet: neither a checkpoint nor an evaluation.")
    return dataset_with(output_dir, digests[-1])


def _disputes(
    split: Split,
    verdicts: Mapping[str, Verdict],
    problems: StoredProblems,
    decisions: Decisions,
) -> list[Dispute]:
    agreements = Agreements((one.agreeing, one.n) for one in verdicts.values())
    places = {id: place for place, id in enumerate(problems.ids())}
    found: list[Dispute] = []
    for id, one in verdicts.items():
        if not one.against_gold:
            continue
        problem = problems[places[id]]
        content = content_of_problem(problem)
        p_value = agreements.p_value(one.agreeing, one.n)
        found.append(
            Dispute(
                problem_id=id,
                split=split,
                content=content,
                question=problem.question,
                gold=problem.answer,
                answer=one.answer,
                agreeing=one.agreeing,
                right=one.right,
                n=one.n,
                others=one.others,
                p_value=p_value,
                expected=None if p_value is None else p_value * agreements.problems,
                seen_in=one.places,
                decision=decisions.about(id, content),
            )
        )
    return found


def _evaluations(run_dir: Path, trouble: list[str]) -> dict[str, Conditions]:
    """The conditions of those that are sound, by name; of the others `trouble` says why."""
    found: dict[str, Conditions] = {}
    for name in evaluation_names(run_dir):
        try:
            found[name] = read_report(evaluation_folder(run_dir, name)).conditions
        except DataError as error:
            trouble.append(str(error))
    return found


def _add(found: dict[str, Said], more: Mapping[str, Said]) -> None:
    for id, one in more.items():
        there = found.setdefault(id, Said())
        there.texts.update(one.texts)
        for text, places in one.places.items():
            there.places.setdefault(text, {}).update(places)


def _last(p_value: float | None) -> float:
    return 2.0 if p_value is None else p_value
