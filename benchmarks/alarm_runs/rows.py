"""The rows of runs, and the alarms over them, checkpoint after checkpoint, as in training."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visual_r1.alarms import AlarmName, Finding, look
from visual_r1.config import RunConfig
from visual_r1.runs.journal import read_metrics
from visual_r1.runs.validations import Validations

Row = dict[str, Any]
CHUNK = 5
VALIDATED = 64  # problems of a simulated validation


@dataclass(frozen=True)
class Rows:
    """What a run wrote: of each step, and of each validation."""

    name: str
    metrics: Sequence[Mapping[str, Any]]
    validations: Sequence[Mapping[str, Any]]


def read_rows(run_dir: Path) -> Rows:
    """The rows of a run's folder."""
    validations = [asdict(row) for row in Validations(run_dir).rows()]
    return Rows(run_dir.name, read_metrics(run_dir), validations)


def findings_of(rows: Rows, window: int = 10) -> list[Finding]:
    """What the default alarms find in a run of these rows."""
    config = RunConfig.model_validate({"preset": "quickstart", "alarms": {"window": window}})
    found: list[Finding] = []
    for first in range(0, len(rows.metrics), CHUNK):
        end = min(first + CHUNK, len(rows.metrics))
        found += look(config, rows.metrics, rows.validations, found, first=first, checkpoint=end)
    return found


def simulated(real: Sequence[Rows], seed: int, steps: int) -> Rows:
    """A run that might have been: the trends of a real run, and its noise in another order.

    A trend is the parabola that fits a column best, noise what a row is away from it; whole rows of
    noise are drawn, so that what goes together in a step stays together. Shares stay between 0 and
    1, and beyond the end of the real run its last values go on. Validations are drawn of 64
    problems every ten steps, each right as often as the trend of accuracy says, with a difficulty
    of its own. What depends on the step before it (drift, say) is not in there.
    """
    rng = np.random.default_rng(seed)
    shape = real[int(rng.integers(len(real)))]
    columns = {
        name: np.array([float(v) if isinstance(v := row.get(name), int | float) else np.nan
                        for row in shape.metrics])
        for name in _numbers(shape.metrics)
    }  # fmt: skip
    trends = {name: _trend(values) for name, values in columns.items()}
    rows: list[Row] = []
    for step in range(steps):
        at, drawn = min(step, len(shape.metrics) - 1), rng.integers(len(shape.metrics))
        row: Row = {"step": step}
        for name, values in columns.items():
            if np.isnan(values[drawn]):
                continue
            value = float(trends[name][at] + values[drawn] - trends[name][drawn])
            low, high = np.nanmin(values), 1.0 if name in SHARES else np.inf
            row[name] = min(max(value, 0.0 if low >= 0 else -np.inf), high)
        rows.append(row)
    hardness = rng.beta(1.2, 0.8, VALIDATED)
    validations = [
        _validation(rng, hardness, trends["accuracy"], step) for step in range(0, steps + 1, 10)
    ]
    return Rows(f"simulated-{seed} of {shape.name}", rows, validations)


SHARES = ("accuracy", "format_rate", "truncated_share", "gradient_share", "reward_format",
          "reward_visual_grounding", "scans_with_answer", "leaks")  # fmt: skip


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that hold a number in some row."""
    found = {
        name: None
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }
    return list(found)


def _trend(values: Any) -> Any:
    """The parabola through the values that are there, at every step; their mean where few are."""
    steps = np.arange(len(values))
    known = ~np.isnan(values)
    degree = 2 if known.sum() > 10 else 0
    return np.polyval(np.polyfit(steps[known], values[known], degree), steps)


def _validation(rng: Any, hardness: Any, accuracy: Any, step: int) -> Row:
    at = min(step, len(accuracy) - 1)
    chance = np.clip(accuracy[at] + 0.5 * (hardness - hardness.mean()), 0.02, 0.98)
    right = rng.random(VALIDATED) < chance
    blind = float(rng.binomial(VALIDATED, 0.01)) / VALIDATED
    return {
        "step": step, "n": VALIDATED, "accuracy": float(right.mean()),
        "right": "".join("1" if one else "0" for one in right),
        "blind_n": VALIDATED, "blind_accuracy": blind,
    }  # fmt: skip


@dataclass(frozen=True)
class RowFault:
    """What is planted in simulated rows from a step on, where a run with it would take hours."""

    planted: str
    alarm: AlarmName


ROW_FAULTS: dict[str, RowFault] = {
    "format paid": RowFault(
        "from step 30 on, format rises by 3 points a step from 50% to 95%, accuracy stays", "format"
    ),
    "length paid": RowFault(
        "from step 30 on, responses grow by 5% of their length a step, accuracy stays", "length"
    ),
    "scans told": RowFault("from step 30 on, 12% of the scans hold the answer", "scans"),
    "texts give away": RowFault(
        "from step 30 on, accuracy with the image blanked rises by 2 points a step to 40%",
        "blind_gap",
    ),
}
PLANTED_AT = 30


def with_fault(rows: Rows, name: str, seed: int) -> Rows:
    """The rows with one of `ROW_FAULTS` from `PLANTED_AT` on."""
    rng = np.random.default_rng(seed)
    metrics = [dict(row) for row in rows.metrics]
    validations = [dict(row) for row in rows.validations]
    if name in ("format paid", "length paid"):
        start = float(np.mean([row["accuracy"] for row in metrics[:PLANTED_AT]]))
        trend = _trend(np.array([row["accuracy"] for row in metrics]))
        for row in metrics:
            since = max(0, row["step"] - PLANTED_AT)
            row["accuracy"] = min(max(row["accuracy"] - float(trend[row["step"]]) + start, 0), 1)
            if name == "format paid":
                share = min(0.95, 0.5 + 0.03 * since)
                row["format_rate"] = float(rng.binomial(64, share)) / 64
            else:
                row["response_tokens_mean"] *= 1 + 0.05 * since
    elif name == "scans told":
        for row in metrics:
            share = 0.12 if row["step"] >= PLANTED_AT else 0.002
            row["scans_with_answer"] = float(rng.binomial(64, share)) / 64
    else:
        for row in validations:
            blind = min(0.4, 0.01 + 0.02 * max(0, row["step"] - PLANTED_AT))
            row["blind_accuracy"] = float(rng.binomial(VALIDATED, blind)) / VALIDATED
    return Rows(rows.name, metrics, validations)
