"""Rows as runs write them: healthy ones, with the noise of real ones, and what is planted in them.

The curves and their spreads are those of a run of the quickstart over 200 steps (docs/alarms.md).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from visual_r1.alarms import Finding, look
from visual_r1.config import RunConfig

Row = dict[str, Any]
Change = Callable[[Row, np.random.Generator], None]

CHUNK = 10
SAMPLES = 128


def share(rng: np.random.Generator, p: float, spread: float = 0.05) -> float:
    """A share of 128 samples whose problems differ in difficulty."""
    return float(rng.binomial(SAMPLES, np.clip(rng.normal(p, spread), 0, 1)) / SAMPLES)


def healthy(seed: int, steps: int = 200, change: Change | None = None) -> list[Row]:
    """Accuracy up from 57 to 84 %, entropy down by half, length here and there, format at 99 %."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for step in range(steps):
        done = step / 200
        row: Row = {
            "step": step,
            "accuracy": share(rng, 0.57 + 0.27 * done),
            "format_rate": share(rng, 0.99, 0.0),
            "reward_visual_grounding": share(rng, 0.98, 0.0),
            "response_tokens_mean": float(rng.normal(42, 2.5)),
            "truncated_share": share(rng, 0.005, 0.0),
            "gradient_share": share(rng, 0.7),
            "entropy": float(np.exp(rng.normal(np.log(0.043) - 0.65 * done, 0.18))),
            "kl_sampler_learner": float(rng.uniform(3e-14, 9e-14)),
            "draw_ratio": float(rng.normal(1, 0.06)),
            "scans_with_answer": share(rng, 0.002, 0.0),
            "leaks": share(rng, 0.001, 0.0),
            "question_only_accuracy": share(rng, 0.01, 0.0),
        }
        if change is not None:
            change(row, rng)
        rows.append(row)
    return rows


def validation(step: int, right: str, blind: float | None = 0.01) -> Row:
    """A row of validation.jsonl by which problems were right."""
    n = len(right)
    return {
        "step": step,
        "n": n,
        "accuracy": right.count("1") / n,
        "right": right,
        "blind_n": n,
        "blind_accuracy": blind,
    }


def run_through(
    rows: list[Row],
    validations: list[Row] | None = None,
    known: list[Finding] | None = None,
    **alarms: Any,
) -> list[Finding]:
    """All findings of a run, checkpoint after checkpoint."""
    config = RunConfig.model_validate({"preset": "quickstart", "alarms": alarms})
    found = list(known or [])
    for first in range(0, len(rows), CHUNK):
        end = min(first + CHUNK, len(rows))
        found += look(config, rows, validations or [], found, first=first, checkpoint=end)
    return found
