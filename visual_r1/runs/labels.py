"""The labels that a run, or an evaluation, goes by: the dataset's, but for what people decided.

A run goes by the decisions that were in force when it began: `labels.json` in its folder is a copy
of them, there only where they change something, and the ledger has its digest. So a batch stays a
function of seed and step, and a run that is killed ends as it would have, whatever is decided
meanwhile. Its evaluations `baseline` and `final`, from which its summary is made, and its
validations go by the same; every other evaluation goes by what is decided when it is made.

A problem that is dropped is left out of training, as one that cannot be asked about, and is not
asked in evaluations and validations. The answer of "other" stands in place of the gold one wherever
that was read: grade, reward, and what is masked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.data.problem import SPLITS, Split
from visual_r1.data.shards import KeptProblems, StoredProblems
from visual_r1.errors import RunError
from visual_r1.hashing import digest
from visual_r1.printing import open_logger
from visual_r1.runs.decisions import (
    DISPUTES_FILE,
    Decision,
    Decisions,
    content_of_problem,
    read_decisions,
)
from visual_r1.storage import read_json, write_json

logger = open_logger(__name__)

LABELS_FILE = "labels.json"
# The evaluations that belong to a run's summary.
OWN_EVALUATIONS = frozenset(("baseline", "final"))
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Label:
    """A problem whose label is another than the dataset's: `answer` is right, or it is dropped."""

    split: Split
    place: int
    id: str
    decision: Literal["other", "drop"]
    answer: str
    gold: str
    who: str
    when: str
    why: str

    def __str__(self) -> str:
        what = "dropped" if self.decision == "drop" else f"{self.answer!r} for {self.gold!r}"
        return f"{self.id} ({what})"


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one dataset that are not its own, in the order of splits and places."""

    dataset_digest: str = ""
    rows: tuple[Label, ...] = ()

    def of(self, split: Split) -> "Labels":
        """Those of a split."""
        return self._only(one for one in self.rows if one.split == split)

    def up_to(self, count: int) -> "Labels":
        """Those of the first `count` problems."""
        return self._only(one for one in self.rows if one.place < count)

    @property
    def digest(self) -> str:
        """16 hex digits of what is graded or asked otherwise, whoever decided it and when; empty
        where nothing is."""
        if not self.rows:
            return ""
        return digest([[one.split, one.id, one.decision, one.answer] for one in self.rows], 16)

    @property
    def dropped(self) -> frozenset[int]:
        """The places of the problems that are left out."""
        return frozenset(one.place for one in self.rows if one.decision == "drop")

    @property
    def answers(self) -> Mapping[int, str]:
        """The answers that hold in place of gold ones, by place."""
        return {one.place: one.answer for one in self.rows if one.decision == "other"}

    def in_words(self) -> str:
        """How many there are, and the first by name."""
        shown = ", ".join(str(one) for one in self.rows[:_NAMED])
        more = f" and {len(self.rows) - _NAMED} more" if len(self.rows) > _NAMED else ""
        return f"{len(self.rows)} ({shown}{more})"

    def _only(self, rows: Iterable[Label]) -> "Labels":
        return Labels(self.dataset_digest, tuple(rows))


_STORED = TypeAdapter(Labels)


def labels_of(dataset: Dataset, decisions: Decisions) -> Labels:
    """What `decisions` come to for the problems of `dataset`.

    One about a problem whose id is there with another content is not used, with a warning.
    """
    by_id: dict[str, list[Decision]] = {}
    for one in decisions.in_force.values():
        if one.changes_label:
            by_id.setdefault(one.problem_id, []).append(one)
    found: list[Label] = []
    for split in SPLITS if by_id else ():
        problems = dataset.problems(split)
        for place, id in enumerate(problems.ids()):
            if id not in by_id:
                continue
            content = content_of_problem(problems[place])
            made = next((one for one in by_id[id] if one.content == content), None)
            if made is None:
                _say(
                    f"A decision in {DISPUTES_FILE} is about another problem {id!r} than the one "
                    f"in {dataset.folder} ({split}), whose question, figure or gold answer is not "
                    "the same: it is not used there."
                )
                continue
            kind: Literal["other", "drop"] = "drop" if made.decision == "drop" else "other"
            found.append(
                Label(
                    *(split, place, id, kind, made.answer, made.gold, made.who, made.when, made.why)
                )
            )
    return Labels(dataset.digest, tuple(found))


def labels_now(output_dir: Path, dataset: Dataset) -> Labels:
    """What is decided now about the problems of `dataset`."""
    return labels_of(dataset, read_decisions(output_dir))


def labels_of_run(run_dir: Path) -> Labels:
    """Those that the run in `run_dir` goes by. Raises `RunError` where their copy is damaged."""
    path = run_dir / LABELS_FILE
    try:
        return read_json(path, _STORED)
    except FileNotFoundError:
        return Labels()
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}, which holds the decisions about labels that this run goes by, cannot be read "
            f"({error}): put it back, or choose another --run.name."
        ) from error


def settle_labels(config: RunConfig, dataset: Dataset, *, begun: bool) -> None:
    """Let a run that begins go by the decisions of now; say what came since one had `begun`.

    Raises `RunError` where the run's copy is damaged or of another dataset.
    """
    path, now = config.run_dir / LABELS_FILE, labels_now(config.output_dir, dataset)
    disputes = config.output_dir / DISPUTES_FILE
    if not begun and not path.exists():
        if now.rows:
            write_json(path, asdict(now))
            _say(f"Decisions of {disputes} hold for this run: {now.in_words()}; {path} keeps them.")
        return
    then = labels_of_run(config.run_dir)
    if then.rows and then.dataset_digest != dataset.digest:
        raise RunError(
            f"{path} is of the dataset {then.dataset_digest}, and this is {dataset.digest}: go "
            "back to that dataset, or choose another --run.name."
        )
    if then.digest != now.digest:
        went = then.in_words() if then.rows else "none"
        _say(
            f"{config.run_dir} goes by the decisions about labels with which it began: {went}. "
            f"{disputes} has come to {now.in_words() if now.rows else 'none'} since; a run with "
            "another --run.name takes these, and `visual-r1 regrade` grades by them."
        )


def labels_of_evaluation(
    config: RunConfig, dataset: Dataset, name: str, split: Split = "test"
) -> Labels:
    """Those that the evaluation `name` of a run goes by: of the problems it asks about."""
    own = name in OWN_EVALUATIONS
    found = labels_of_run(config.run_dir) if own else labels_now(config.output_dir, dataset)
    return found.of(split).up_to(config.evaluation.count(dataset.counts.get(split, 0)))


def evaluated_problems(
    config: RunConfig, dataset: Dataset, labels: Labels, split: Split = "test"
) -> StoredProblems | KeptProblems:
    """The problems of a split that an evaluation under `labels` asks about; those dropped are not
    replaced by others."""
    problems = dataset.problems(split)
    if not labels.rows:
        return problems
    beyond = range(config.evaluation.count(len(problems)), len(problems))
    return KeptProblems(problems, {*beyond, *labels.dropped}, labels.answers)


@cache
def _say(sentence: str) -> None:
    """Once in a process."""
    logger.warning("%s", sentence)
