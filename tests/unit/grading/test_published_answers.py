"""Real answers on which a published verdict differs from ours: a person has said who is right.

`trials/published_answers.jsonl` has each that `benchmarks/grading.py --published` meets in the
answers of four models to MATH-Vision (MIT, mathvision-cuhk/MATH-V).
"""

import json
from pathlib import Path

from visual_r1.grading import grade_answer

ANSWERS = Path(__file__).parents[3] / "trials" / "published_answers.jsonl"


def test_ours_is_right_wherever_the_published_verdict_is_another() -> None:
    rows = [json.loads(line) for line in ANSWERS.read_text("utf-8").splitlines()]
    wrong = [
        (row["gold"], row["answer"], row["options"])
        for row in rows
        if grade_answer(row["answer"], row["gold"], choices=row["options"]).right != row["right"]
    ]
    assert not wrong
    assert sum(row["n"] for row in rows) == 150
    assert sum(row["n"] for row in rows if row["right"] != row["published"]) == 105
