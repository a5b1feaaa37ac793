"""What a policy answered to each problem of a run, counted by what is the same answer."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from string import ascii_uppercase
from typing import Any, cast

from visual_r1.data.choices import shown_choices
from visual_r1.errors import RunError
from visual_r1.evaluation.metrics import evaluation_folder
from visual_r1.evaluation.predictions import iterate_predictions
from visual_r1.grading import Rounding, extract_answer, grade_answer
from visual_r1.regrade.golds import Gold, Thoughts
from visual_r1.rewards.grounding import opened
from visual_r1.runs.journal import ROLLOUTS, Journal
from visual_r1.tables import open_table, said_of

_BATCH = 1024


@dataclass
class Said:
    """The answers to one problem as they were written, None where there was none; and in which
    evaluations, or in the rollouts, each was given."""

    texts: Counter[str | None] = field(default_factory=Counter[str | None])
    places: dict[str | None, dict[str, None]] = field(
        default_factory=dict[str | None, dict[str, None]]
    )

    def add(self, text: str | None, place: str) -> None:
        """One answer more."""
        self.texts[text] += 1
        self.places.setdefault(text, {})[place] = None

    @property
    def count(self) -> int:
        """How many there are."""
        return self.texts.total()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answers to a problem: `right` of n are the gold one, and `agreeing` the most frequent one
    of the others, `answer`. `others` counts the different wrong answers."""

    n: int
    right: int
    agreeing: int
    answer: str
    others: int
    places: tuple[str, ...]

    @property
    def against_gold(self) -> bool:
        """Whether one wrong answer was given oftener than the gold one, and more than once."""
        return self.agreeing > max(self.right, 1)


def said_in_rollouts(run_dir: Path, thoughts: Thoughts) -> dict[str, Said]:
    """What was answered in training, by problem. Raises `RunError` where a file is damaged."""
    found: dict[str, Said] = {}
    for chunk in Journal(run_dir).chunks():
        way_out = "move it away to do without the rollouts of its steps"
        with said_of(chunk, way_out, RunError), open_table(chunk) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=["problem_id", "response"]):
                rows = cast("list[dict[str, Any]]", batch.to_pylist())
                opens = thoughts.opens(ROLLOUTS, [row["response"] for row in rows])
                for row in rows:
                    text = extract_answer(opened(row["response"], opens))
                    found.setdefault(row["problem_id"], Said()).add(text, ROLLOUTS)
    return found


def said_in_evaluations(run_dir: Path, names: Iterable[str], thoughts: Thoughts) -> dict[str, Said]:
    """What was answered in evaluations, greedy and sampled, by problem. Raises `DataError`."""
    found: dict[str, Said] = {}
    for name in names:
        folder = evaluation_folder(run_dir, name)
        for row in iterate_predictions(folder, ["id", "response", "sampled_responses"]):
            responses = [row["response"]] if row["response"] is not None else []
            for response in (*responses, *row["sampled_responses"]):
                opens = thoughts.opens("greedy", [response])
                text = extract_answer(opened(response, opens))
                found.setdefault(row["id"], Said()).add(text, name)
    return found


def judged(said: Said, gold: Gold, rounding: Rounding) -> Verdict:
    """The answers to a problem, counted by what the grader takes for the same."""
    texts = [(text, said.texts[text]) for text in said.texts if text is not None]
    texts.sort(key=lambda one: (-one[1], one[0]))
    shown = gold.shown(ROLLOUTS)
    choices = tuple(shown_choices(shown))
    letters = ascii_uppercase[: len(choices)]
    right, wrong = 0, list[tuple[str, list[str], int]]()
    for text, count in texts:
        if _same(text, shown.answer, rounding, choices):
            right += count
            continue
        place = next(
            (
                at
                for at, (first, _, _) in enumerate(wrong)
                if _same(text, first, rounding, choices)
                or _picks(text, letters, rounding, choices)
                == _picks(first, letters, rounding, choices)
                != ""
            ),
            None,
        )
        if place is None:
            wrong.append((text, [text], count))
        else:
            first, members, before = wrong[place]
            wrong[place] = first, [*members, text], before + count
    answer, members, agreeing = max(wrong, key=lambda one: one[2], default=("", list[str](), 0))
    places = dict.fromkeys(place for text in members for place in said.places[text])
    return Verdict(said.count, right, agreeing, answer, len(wrong), tuple(places))


def _picks(text: str, letters: str, rounding: Rounding, choices: tuple[str, ...]) -> str:
    """The letter of the choice that `text` is; empty where it is none, or none is shown."""
    return next((one for one in letters if _same(text, one, rounding, choices)), "")


@lru_cache(maxsize=2**16)
def _same(text: str, other: str, rounding: Rounding, choices: tuple[str, ...]) -> bool:
    """Whether the grader takes `text` for the answer `other`."""
    return text == other or grade_answer(text, other, rounding, choices=choices).right
