"""The answer out of a response, and whether it is the gold answer.

`grade(response, reference)` gives a verdict — right, wrong, or gave_up — with its reason and the
version of the grader. The parser is bounded in length, depth and size of numbers, evaluates
nothing of the response, and answers in milliseconds whatever the text. The first unit that a
process meets takes half a second: pint's registry is read then.
"""

from visual_r1.grading.choices import choice_named
from visual_r1.grading.equivalence import Rounding
from visual_r1.grading.extraction import extract_answer
from visual_r1.grading.grade import (
    GRADER_VERSION,
    Grade,
    Verdict,
    failed_grade,
    fault_of_gold,
    gold_text,
    grade,
    grade_answer,
    is_equivalent,
    verdict_in_words,
)

__all__ = [
    "GRADER_VERSION",
    "Grade",
    "Rounding",
    "Verdict",
    "choice_named",
    "extract_answer",
    "failed_grade",
    "fault_of_gold",
    "gold_text",
    "grade",
    "grade_answer",
    "is_equivalent",
    "verdict_in_words",
]
