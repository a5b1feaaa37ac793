"""The cases of cases.txt, and a file of cases from elsewhere where one is named."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from visual_r1.grading import Rounding, grade, grade_answer

CASES = Path(__file__).parent / "cases.txt"
ELSEWHERE = "VISUAL_R1_GRADER_CASES"


def read_cases() -> list[Any]:
    section, cases = "", []
    for number, line in enumerate(CASES.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("##"):
            section = line.strip("# ")
        elif line and not line.startswith("#"):
            gold, answer, *verdicts = line.replace("\\n6", "\n6").split(" | ")
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


@pytest.mark.skipif(ELSEWHERE not in os.environ, reason=f"{ELSEWHERE} names no file of cases")
def test_cases_from_elsewhere() -> None:
    """JSON lines: kind, mode (answer | response), ref, pred or pred_parts, equal, tol_equal."""
    lines = Path(os.environ[ELSEWHERE]).read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    wrong: list[dict[str, Any]] = []
    slowest = 0.0
    for case in cases:
        text = case.get("pred") or "".join(part * n for part, n in case.get("pred_parts", []))
        judge = grade if case["mode"] == "response" else grade_answer
        for rounding, wanted in (("exact", "equal"), ("rounded", "tol_equal")):
            mode: Rounding = "rounded" if rounding == "rounded" else "exact"
            began = time.process_time()
            right = judge(text, case["ref"], mode).right
            slowest = max(slowest, time.process_time() - began)
            if right != case.get(wanted, case["equal"]):
                wrong.append({**case, "rounding": rounding})
    hacks = [case for case in wrong if "hack" in case["kind"] or case["kind"].startswith("dos")]
    assert not hacks
    assert len(wrong) <= 0.03 * len(cases), wrong
    assert slowest < 0.1
