"""Where the gold answers are found: in the run's dataset, or else in the predictions themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visual_r1.data.dataset import Dataset
from visual_r1.data.problem import Split
from visual_r1.errors import DataError
from visual_r1.hashing import digest
from visual_r1.regrade.golds import Gold, dataset_with, gold_of_row, golds_of
from visual_r1.runs.decisions import Decisions
from visual_r1.runs.labels import Labels, labels_of

# An evaluation is of test, but for one that somebody asked about another split.
_SPLITS: tuple[Split, ...] = ("test", "validation", "train")


@dataclass
class Held:
    """The gold answers of one dataset, under the decisions of now.

    Without `dataset` they are those that predictions have.
    """

    decisions: Decisions
    dataset: Dataset | None = None
    labels: Labels = field(default_factory=Labels)
    _splits: dict[Split, Mapping[str, Gold]] = field(
        default_factory=dict[Split, Mapping[str, Gold]]
    )

    @property
    def needs_images(self) -> bool:
        """Whether a decision is found by a row's pictures alone."""
        return self.dataset is None and any(
            one.changes_label for one in self.decisions.in_force.values()
        )

    @property
    def digest(self) -> str:
        """The dataset's; empty where it is not there."""
        return self.dataset.digest if self.dataset else ""

    @property
    def decisions_digest(self) -> str:
        """Of what is graded otherwise because of decisions; empty where nothing is."""
        if self.dataset is not None:
            return self.labels.digest
        held = [one for one in self.decisions.in_force.values() if one.changes_label]
        return digest([[one.content, one.decision, one.answer] for one in held], 16) if held else ""

    def split(self, name: Split) -> Mapping[str, Gold]:
        """The golds of a split by id; empty where there is no dataset."""
        if name not in self._splits:
            self._splits[name] = golds_of(self.dataset, name, self.labels) if self.dataset else {}
        return self._splits[name]

    def gold(self, row: Mapping[str, Any], *, was_decided: bool) -> Gold | None:
        """That of a row of predictions; None where nobody can say."""
        for name in _SPLITS if self.dataset else ():
            found = self.split(name).get(row["id"])
            if found is not None and found.question == row["question"]:
                return found
        return gold_of_row(row, self.decisions, was_decided=was_decided)


class Truths:
    """The datasets of a working directory, as they are asked for.

    `trouble` says, by the digest of a dataset that cannot be used, why.
    """

    def __init__(self, output_dir: Path, decisions: Decisions) -> None:
        self._output_dir, self._decisions = output_dir, decisions
        self._held: dict[str, Held] = {}
        self.trouble: dict[str, str] = {}

    def of(self, wanted: str) -> Held:
        """What is held of the dataset with this digest."""
        if wanted not in self._held:
            self._held[wanted] = self._open(wanted)
        return self._held[wanted]

    def _open(self, wanted: str) -> Held:
        try:
            dataset = dataset_with(self._output_dir, wanted)
        except DataError as error:
            self.trouble[wanted] = str(error)
            return Held(self._decisions)
        return Held(self._decisions, dataset, labels_of(dataset, self._decisions))
