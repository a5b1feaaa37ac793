"""Made-up evaluations and run folders, drawn from a seed."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from visual_r1.data.problem import Problem
from visual_r1.evaluation.deciding import Conditions
from visual_r1.evaluation.metrics import measure, write_report
from visual_r1.evaluation.prediction import GradedResponse, Prediction
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, write_predictions
from visual_r1.evaluation.statistics import wilson
from visual_r1.policy.second_pass import SecondPass
from visual_r1.rewards.blindfold.masking import MaskedScan
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.validations import ValidationRow, Validations
from visual_r1.storage import write_json

FAMILIES = ("inscribed_angle", "parallel_lines", "pythagoras", "triangle_angles")


def picture(seed: int, size: int = 96) -> bytes:
    """A small line drawing as PNG."""
    draw = random.Random(seed)
    image = Image.new("RGB", (size, size), "white")
    corners = [(draw.randrange(8, size - 8), draw.randrange(8, size - 8)) for _ in range(3)]
    pencil = ImageDraw.Draw(image)
    pencil.polygon(corners, outline="black")
    pencil.text(corners[0], "74", fill="black")
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def problems(count: int) -> list[Problem]:
    """Problems of four families, the i-th with the answer i + 1."""
    return [
        Problem(
            id=f"test-{i:04d}",
            images=(picture(i),),
            problem=f"<image>Find the measure of angle {'ABC'[i % 3]} in figure {i}.",
            answer=str(i + 1),
            source="procedural",
            meta={"family": FAMILIES[i % len(FAMILIES)]},
        )
        for i in range(count)
    ]


def answer(right: bool, text: str = "", **changes: object) -> GradedResponse:
    """A graded response."""
    values: dict[str, object] = {
        "response": text or f"<think>angle A reads 74</think><answer>{1 if right else 0}</answer>",
        "extracted": "1" if right else "0",
        "verdict": "right" if right else "wrong",
        "reason": "",
        "right_exact": right,
        "right_rounded": right,
        "format_ok": True,
        "grounded": True,
        "truncated": False,
        "tokens": 24,
    }
    return GradedResponse(**{**values, **changes})  # type: ignore[arg-type]


def predictions(of: Sequence[Problem], accuracy: float, seed: int, k: int = 8) -> list[Prediction]:
    """Predictions of a policy that is right with a chance of `accuracy`, drawn by problem."""
    made: list[Prediction] = []
    for problem in of:
        draw = random.Random(f"{seed}-{problem.id}")
        thought = f"<think>angle A reads 74, so 180 - 74 = {draw.randrange(180)}</think>"
        right = draw.random() < accuracy
        given = problem.answer if right else str(draw.randrange(180))
        made.append(
            Prediction(
                id=problem.id,
                family=problem.family,
                greedy=answer(right, f"{thought}<answer>{given}</answer>", extracted=given),
                blind=answer(draw.random() < 0.03),
                sampled=tuple(answer(draw.random() < accuracy) for _ in range(k)),
                failures={},
            )
        )
    return made


def with_scans(made: Sequence[Prediction], accuracy: float, seed: int) -> list[Prediction]:
    """The same with second passes that are right with a chance of `accuracy`; every tenth has no
    scan and every seventh one with an answer in it."""
    found: list[Prediction] = []
    for index, prediction in enumerate(made):
        draw = random.Random(f"{seed}-scan-{prediction.id}")
        scan = MaskedScan("angle A reads 74.", int(index % 7 == 0), held_answer=index % 7 == 0)
        second = SecondPass("right" if draw.random() < accuracy else "wrong", "", scan, "a", 50, 9)
        if index % 10 == 9:
            second = SecondPass("no_scan", "")
        found.append(replace(prediction, second=second, question_only=draw.random() < 0.02))
    return found


def conditions(**changes: object) -> Conditions:
    """Conditions of a quickstart evaluation."""
    values: dict[str, object] = {
        "sampler_path": "tinker://session:train:0/sampler_weights/final",
        "model": "visual-r1/tiny-geometry",
        "dataset_digest": "0123abcd",
        "seed": 0,
        "k": 8,
        "temperature": 1.0,
        "max_new_tokens": 96,
        "template": "think",
        "rounding": "exact",
        "grader_version": "1",
        "blind": True,
        "template_digest": "0123456789abcdef",
        "max_pixels": 1_003_520,
    }
    return Conditions(**{**values, **changes})  # type: ignore[arg-type]


def write_evaluation(
    folder: Path, of: Sequence[Problem], made: Sequence[Prediction], **changes: object
) -> None:
    """An evaluation folder, as `evaluate` leaves it."""
    write_predictions(folder / PREDICTIONS_NAME, of, made)
    write_report(folder, measure(made, conditions(**changes)))


def write_metrics(run_dir: Path, steps: int, updated: bool = True) -> None:
    """A `metrics.jsonl` whose reward and accuracy rise."""
    draw = random.Random(5)
    rows: list[str] = []
    for step in range(steps):
        accuracy = min(0.97, 0.55 + 0.4 * step / max(steps, 1) + draw.gauss(0, 0.04))
        row = {
            "step": step,
            "updated": updated,
            "reward_mean": 0.5 + accuracy,
            "accuracy": accuracy,
            "format_rate": 0.97,
            "groups": 16,
            "groups_without_contrast": 4 if updated else 16,
        }
        rows.append(json.dumps(row))
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.jsonl").write_text("".join(row + "\n" for row in rows))


def spend(run_dir: Path, steps: Sequence[float | None] = (), **evaluations: float | None) -> None:
    """Give the first steps of a run and its evaluations a cost."""
    path = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, cost in zip(rows, steps, strict=False):
        row["cost_usd"] = cost
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, cost in evaluations.items():
        report = run_dir / "evaluations" / name / "report.json"
        write_json(report, json.loads(report.read_text()) | {"cost_usd": cost})


def write_validation(
    run_dir: Path, step: int, accuracy: float, blind: float = 0.0625, sampler_path: str = ""
) -> None:
    """The validation row of a checkpoint, on 16 problems."""
    right = round(16 * accuracy)
    row = ValidationRow(
        step=step,
        n=16,
        correct=right,
        accuracy=accuracy,
        accuracy_ci95=wilson(right, 16),
        blind_n=16,
        blind_accuracy=blind,
        blind_accuracy_ci95=wilson(round(16 * blind), 16),
        format_rate=1.0,
        mean_response_tokens=30.0,
        truncated=0,
        gave_up=0,
        failed=0,
        right="1" * right + "0" * (16 - right),
        sampler_path=sampler_path or f"tinker://session:train:0/sampler_weights/step-{step:06d}",
        seconds=1.0,
        created_at="2026-05-01T10:00:00+00:00",
    )
    run_dir.mkdir(parents=True, exist_ok=True)
    Validations(run_dir).record(row)


def checkpoint(step: int, digest: str, backend: str = "embedded") -> LedgerRow:
    """A row of the ledger."""
    return LedgerRow(
        step=step,
        state_path=f"tinker://a:train:0/weights/{step}",
        sampler_path=f"tinker://a:train:0/sampler_weights/{step}",
        expires_at=None,
        config_digest=digest,
        dataset_digest="c0f96b6c",
        backend=backend,
        created_at="2026-05-01T10:00:00+00:00",
        updates=step,
    )
