"""The cases of cases.txt, and a file of cases from elsewhere where one is named."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from visual_r1.grading import Rounding, grade, grade_answer

CASES = Path(__file__).parent / "cases.txt"
SHIPPED = Path(__file__).parents[3] / "trials" / "grader_cases.jsonl"
ELSEWHERE = "VISUAL_R1_GRADER_CASES"


def read_cases() -> list[Any]:
    section, cases = "", []
    for number, line in enumerate(CASES.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("##"):
            section = line.strip("# ")
        elif line and not line.startswith("#"):
            gold, answer, *verdicts = line.replace("⏎", "\n").split(" | ")
            cases.append(pytest.param(gold, answer, *(verdicts * 2)[:2], id=f"{section}:{number}"))
    return cases


@pytest.mark.parametrize(("gold", "answer", "exact", "rounded"), read_cases())
def test_case(gold: str, answer: str, exact: str, rounded: str) -> None:
    for rounding, wanted in (("exact", exact), ("rounded", rounded)):
        mode: Rounding = "rounded" if rounding == "rounded" else "exact"
        graded = grade_answer(answer, gold, mode)
        if wanted == "no":
            assert graded.verdict != "right", (rounding, graded)
        else:
            assert graded.verdict == wanted, (rounding, graded)


def wrong_verdicts(path: Path) -> tuple[list[dict[str, Any]], float, int]:
    """The cases of `path` answered otherwise than labelled, the slowest answer, and how many."""
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wrong: list[dict[str, Any]] = []
    slowest = 0.0
    assert grade_answer("5 cm ∘", "50 mm").version  # the tables of units and signs are read once
    for case in cases:
        text = case["pred"] if "pred" in case else "".join(p * n for p, n in case["pred_parts"])
        judge = grade if case["mode"] == "response" else grade_answer
        for rounding, wanted in (("exact", "equal"), ("rounded", "tol_equal")):
            mode: Rounding = "rounded" if rounding == "rounded" else "exact"
            began = time.process_time()
            right = judge(text, case["ref"], mode).right
            slowest = max(slowest, time.process_time() - began)
            if right != case.get(wanted, case["equal"]):
                wrong.append({**case, "rounding": rounding})
    return wrong, slowest, len(cases)


def test_the_shipped_cases() -> None:
    """JSON lines: kind, mode (answer | response), ref, pred or pred_parts, equal, tol_equal."""
    wrong, _, count = wrong_verdicts(SHIPPED)
    accepted = [case for case in wrong if not case["equal"] and not case.get("tol_equal")]
    assert not accepted
    assert len(wrong) <= 0.01 * count, wrong


@pytest.mark.skipif(ELSEWHERE not in os.environ, reason=f"{ELSEWHERE} names no file of cases")
def test_cases_from_elsewhere() -> None:
    wrong, slowest, count = wrong_verdicts(Path(os.environ[ELSEWHERE]))
    hacks = [case for case in wrong if "hack" in case["kind"] or case["kind"].startswith("dos")]
    assert not hacks
    assert len(wrong) <= 0.03 * count, wrong
    assert slowest < 0.1
