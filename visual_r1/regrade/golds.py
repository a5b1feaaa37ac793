"""What responses are graded by: the gold answers of a dataset, under the decisions of now."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visual_r1.config import RunConfig
from visual_r1.data.choices import shown_choices
from visual_r1.data.dataset import Dataset, folders_with, open_dataset
from visual_r1.data.problem import Problem, Split
from visual_r1.errors import ConfigError, DataError, ModelError
from visual_r1.grading import choice_named
from visual_r1.policy.policy import Policy, open_policy
from visual_r1.regrade.graders import Stored
from visual_r1.rewards.blindfold.choices import in_order, unaided, with_its_choices
from visual_r1.rewards.grounding import opened
from visual_r1.runs.decisions import Decisions, content_of
from visual_r1.runs.labels import Labels

# Passes that show a problem without its image, and so without choices to choose from.
WITHOUT_IMAGE = ("question_only", "scan_only")
# In the grader's reason where it compared choices: without them nobody can do so again.
_OF_CHOICES = "choice"


@dataclass(frozen=True, slots=True)
class Gold:
    """What the answers to one problem are graded by.

    `stored` is the dataset's gold answer, `problem`, which is without its images, has the one that
    holds: another where a person said so.
    """

    problem: Problem
    stored: str
    dropped: bool = False

    @property
    def question(self) -> str:
        """The text of the problem, without its image markers."""
        return self.problem.question

    @property
    def answer(self) -> str:
        """The gold answer that holds."""
        return self.problem.answer

    @property
    def decided(self) -> bool:
        """Whether a person's decision is why it is graded otherwise."""
        return self.dropped or self.answer != self.stored

    def shown(self, name: str, order: str | None = "") -> Problem:
        """The problem as the pass `name` showed it, with the answer and the choices that its
        responses are graded by.

        `order` is that of the choices (`second_order`); None where it was never written down: by
        versions whose passes without the image left choices where they stood, and showed those that
        only the text lists.
        """
        if name not in WITHOUT_IMAGE or (order is None and not self.problem.choices):
            return with_its_choices(self.problem)
        return in_order(unaided(self.problem), order or "")

    def of(
        self, name: str, response: str, *, opens_think: bool, order: str | None = None
    ) -> Stored:
        """A response of the pass `name`, to be graded; `order` as for `shown`."""
        shown = self.shown(name, order)
        return Stored(opened(response, opens_think), shown.answer, tuple(shown_choices(shown)))


def gold_of(problem: Problem, answer: str | None = None, *, dropped: bool = False) -> Gold:
    """The gold of a problem, its own or the `answer` in its place; no figure is looked at."""
    held = replace(problem, images=(), answer=problem.answer if answer is None else answer)
    return Gold(held, problem.answer, dropped)


def golds_of(dataset: Dataset, split: Split, labels: Labels) -> Mapping[str, Gold]:
    """The golds of a split by the ids of its problems. Raises `DataError`."""
    held = labels.of(split)
    answers, dropped = held.answers, held.dropped
    return {
        problem.id: gold_of(problem, answers.get(place), dropped=place in dropped)
        for place, problem in enumerate(dataset.problems(split).without_figures())
    }


def gold_of_row(row: Mapping[str, Any], decisions: Decisions, *, was_decided: bool) -> Gold | None:
    """The gold of a row of predictions alone, where the dataset is not there; None where the row
    does not say enough: an older file has no choices, and its problem seems to show some.

    `was_decided` says that its answer may be one that a person had put in the gold one's place:
    then no decision is looked for, and neither is where the row is without its pictures.
    """
    choices = row.get("choices")
    if choices is None:
        is_choice = choice_named(row["answer"]) is not None
        if is_choice or _OF_CHOICES in (row["reason"] or ""):
            return None
    problem = Problem(row["id"], (), row["question"], row["answer"], tuple(choices or ()))
    made = None
    if not was_decided and "images" in row:
        images = [one["bytes"] for one in row["images"]]
        content = content_of(problem.question, problem.answer, images)
        made = decisions.about(problem.id, content)
    if made is None or not made.changes_label:
        return gold_of(problem)
    return gold_of(problem, made.answer or None, dropped=made.decision == "drop")


def dataset_with(output_dir: Path, digest: str) -> Dataset:
    """The prepared dataset with this digest, see `folders_with`.

    Raises `DataError` where it is missing or damaged.
    """
    place = output_dir / "data"
    folders = folders_with(place, digest)
    if not folders:
        raise DataError(
            f"The dataset {digest} is not in {place}: prepare it again (the command that began the "
            "run does, and so does flows/prepare_flow.py with its settings), or put it back."
        )
    return open_dataset(folders[0])


class Thoughts:
    """Whether a pass's prompt had written `<think>` before the response began.

    That is for the model's chat template to say. Where it cannot be had (it is on the hub, and
    nobody is there), what was answered says it: a response that begins inside a thought closes one
    that it has not opened.
    """

    def __init__(self, config: RunConfig) -> None:
        self._policy: Policy | None = None
        with suppress(ModelError, ConfigError):
            self._policy = open_policy(config)
        self._seen: dict[str, bool] = {}

    def opens(self, name: str, responses: Sequence[str]) -> bool:
        """For the pass `name`, of which `responses` are some; the first call decides."""
        if name not in self._seen:
            self._seen[name] = self._said(name, responses)
        return self._seen[name]

    def _said(self, name: str, responses: Sequence[str]) -> bool:
        policy = self._policy
        if policy is not None and name not in (*WITHOUT_IMAGE, "described"):
            return policy.prompter.opens_think
        if policy is not None and policy.reader is not None:
            reader = policy.reader
            if name == "scan_only":
                return reader.prompter.opens_think
            if name == "question_only":
                return reader.question_only_prompter.opens_think
        closes = [one.partition("</think>")[0] for one in responses if "</think>" in one]
        return sum("<think>" not in before for before in closes) * 2 > len(closes)
