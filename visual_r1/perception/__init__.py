"""Where a policy fails: in reading the figure, in reasoning from what it read, or in the form."""

from visual_r1.evaluation.metrics import Share
from visual_r1.perception.changes import Change, Changes, compared
from visual_r1.perception.evaluations import failures_of, failures_of_run
from visual_r1.perception.judging import KINDS, MEANINGS, Judgement, Kind, judge
from visual_r1.perception.shares import Failures, counted
from visual_r1.perception.words import in_a_line, sentences, short

__all__ = [
    "KINDS",
    "MEANINGS",
    "Change",
    "Changes",
    "Failures",
    "Judgement",
    "Kind",
    "Share",
    "compared",
    "counted",
    "failures_of",
    "failures_of_run",
    "in_a_line",
    "judge",
    "sentences",
    "short",
]
