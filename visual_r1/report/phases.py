"""Where the time of a run goes: a step by its phases, and the whole run beside them.

The phases of a step follow one another and make up its seconds (docs/metrics.md); saving a
checkpoint comes after it. What is left of the wall time is all that is no step: starting, the
evaluations, export, and what of a killed start had to be done again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visual_r1.runs.journal import MetricsRow
from visual_r1.runs.validations import ValidationRow

PHASES: Mapping[str, str] = {
    "first_pass": "sampling, the first pass",
    "second_pass": "sampling, the second pass",
    "kl": "log-probabilities of the base model",
    "sampler": "handing the weights to the sampler",
    "prompts": "building prompts",
    "train": "learning: gradients and the optimizer",
    "checkpoint": "saving checkpoints",
}
"""Key of metrics.jsonl after `seconds_` -> what it is; from the bottom of the stack."""

OF_A_STEP: Mapping[str, str] = {key: says for key, says in PHASES.items() if key != "checkpoint"}
"""Those that make up a step; what they leave of it is `REST`."""

REST = "the rest of the steps"
_LEAST_S = 0.05


@dataclass(frozen=True, slots=True)
class TimeRow:
    """What one part of a run took: `share` is of the wall time where that is known, else of all
    rows; `phase` its class in the style sheet, empty where it is no phase of a step."""

    phase: str
    name: str
    seconds: float
    share: float


def time_rows(
    metrics: Sequence[MetricsRow],
    validations: Sequence[ValidationRow],
    wall_seconds: float | None,
) -> list[TimeRow]:
    """What took the time, in the order of the phases; nothing where no step says."""
    found = [(phase, meaning, seconds_in(metrics, phase)) for phase, meaning in PHASES.items()]
    found = [one for one in found if one[2] > 0]
    if not found:
        return []
    if (rest := math.fsum(seconds_of_step(row)[-1] for row in metrics)) >= _LEAST_S:
        found.append(("", REST, rest))
    if (validating := math.fsum(row.seconds for row in validations)) > 0:
        found.append(("validating", "validating", validating))
    spent = math.fsum(seconds for *_, seconds in found)
    if wall_seconds is not None and wall_seconds > spent:
        found.append(("", "all else: start, evaluations, export", wall_seconds - spent))
    whole = math.fsum(seconds for *_, seconds in found)
    return [TimeRow(phase, name, seconds, seconds / whole) for phase, name, seconds in found]


def seconds_of_step(row: MetricsRow) -> list[float]:
    """Seconds of each phase `OF_A_STEP` in a step, and of the rest of it."""
    parts = [row.get(f"seconds_{phase}") or 0.0 for phase in OF_A_STEP]
    return [*parts, max((row.get("seconds_total") or 0.0) - math.fsum(parts), 0.0)]


def seconds_in(rows: Sequence[MetricsRow], phase: str) -> float:
    """Seconds of a phase in all of these steps."""
    return math.fsum(row.get(f"seconds_{phase}") or 0.0 for row in rows)
