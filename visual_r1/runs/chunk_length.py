"""How many steps a chunk should have, from what a step and a checkpoint take.

A death loses what was done since the last checkpoint, half a chunk in the mean, and each checkpoint
takes time itself. With C seconds a checkpoint and a death every M seconds, a chunk of sqrt(2 C M)
seconds loses the least in all (Young 1974, "A first order approximation to the optimum checkpoint
interval", CACM 17(9)).
"""

import math

from visual_r1.wording import duration

DEATH_EVERY_S = 86400.0
"""M: once a day. Four times as rare would make the best chunk twice as long."""

CHECKPOINT_S = 1.0
"""C where none was measured; the embedded engine with the shipped model needs less."""

MUCH_LONGER = 3.0
MOST_SAVING = 0.05
"""A chunk of up to so many times the best length loses little more; a shorter one may save up to
that share of its time, for it is also how often a run is validated and alarms are heeded."""


def best_steps(step_s: float, checkpoint_s: float | None) -> int:
    """The number of steps a chunk that loses the least time; at least 1."""
    saving = CHECKPOINT_S if checkpoint_s is None else max(checkpoint_s, 0.05)
    return max(1, round(math.sqrt(2 * saving * DEATH_EVERY_S) / max(step_s, 1e-6)))


def chunk_in_words(steps: int, step_s: float, checkpoint_s: float | None) -> tuple[str, str]:
    """What a chunk of so many steps takes and risks; and what would be better, or nothing."""
    chunk_s = steps * step_s
    saving = "" if checkpoint_s is None else f", its checkpoint {checkpoint_s:.1f} s"
    says = f"a chunk of {steps} steps takes {duration(chunk_s)}{saving}; a kill loses at most that"
    best = best_steps(step_s, checkpoint_s)
    saves_often = best > steps and (checkpoint_s or 0.0) > MOST_SAVING * chunk_s
    if steps <= MUCH_LONGER * best and not saves_often:
        return says, ""
    return says, (
        f"--train.chunk_steps {best} ({duration(best * step_s)} a chunk) loses the least time, "
        "saving included, where something dies once a day."
    )
