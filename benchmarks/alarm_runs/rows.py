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
SMOOTHED = 11  # steps: what is slower than that is the curve, the rest is noise
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
    """A run that might have been: the curves of one real run, and the noise of all.

    Noise is what a row is away from the mean of the steps around it; whole rows are drawn, so that
    what goes together in a step stays together. Shares stay between 0 and 1. Beyond the end of the
    real run its last values go on. Validations are drawn of 64 problems every ten steps, of which
    each is right as often as the curve of accuracy says, with a difficulty of its own.
    """
    rng = np.random.default_rng(seed)
    shape = real[rng.integers(len(real))]
    names = sorted(_numbers(shape.metrics[0]))
    curves = {name: _smoothed([row.get(name) for row in shape.metrics]) for name in names}
    noise: list[dict[str, float]] = []
    for run in real:
        smooth = {name: _smoothed([row.get(name) for row in run.metrics]) for name in names}
        for at, row in enumerate(run.metrics):
            noise.append({
                name: float(row[name]) - smooth[name][at]
                for name in names if isinstance(row.get(name), int | float)
            })  # fmt: skip
    rows: list[Row] = []
    for step in range(steps):
        at = min(step, len(shape.metrics) - 1)
        drawn = noise[rng.integers(len(noise))]
        row: Row = {"step": step}
        for name in names:
            value = curves[name][at] + drawn.get(name, 0.0)
            value = max(value, 0.0) if curves[name].min() >= 0 else value
            row[name] = min(value, 1.0) if name in SHARES else value
        rows.append(row)
    hardness = rng.beta(1.2, 0.8, VALIDATED)
    validations = [_validation(rng, hardness, curves["accuracy"], step)
                   for step in range(0, steps + 1, 10)]  # fmt: skip
    return Rows(f"simulated-{seed}", rows, validations)


SHARES = ("accuracy", "format_rate", "truncated_share", "gradient_share", "reward_format",
          "reward_visual_grounding", "scans_with_answer", "leaks")  # fmt: skip


def _numbers(row: Mapping[str, Any]) -> list[str]:
    return [
        name for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    ]  # fmt: skip


def _smoothed(values: Sequence[Any]) -> Any:
    """The mean of the steps around each, fewer at the ends; of a row without the value the mean."""
    known = [float(value) for value in values if isinstance(value, int | float)]
    mean = float(np.mean(known)) if known else 0.0
    line = np.array([float(v) if isinstance(v, int | float) else mean for v in values])
    half = SMOOTHED // 2
    return np.array([line[max(0, i - half) : i + half + 1].mean() for i in range(len(line))])


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
    if name == "scans told":
        for row in metrics:
            share = 0.12 if row["step"] >= PLANTED_AT else 0.002
            row["scans_with_answer"] = float(rng.binomial(64, share)) / 64
    else:
        for row in validations:
            blind = min(0.4, 0.01 + 0.02 * max(0, row["step"] - PLANTED_AT))
            row["blind_accuracy"] = float(rng.binomial(VALIDATED, blind)) / VALIDATED
    return Rows(rows.name, metrics, validations)
