"""The learning rate of a step: a function of the configuration and the step's number alone.

With warm-up over W steps, and an end at step S (`optimizer.schedule_steps`):

    step < W     rate · (step + 1) / W
    constant     rate
    linear       rate · (1 - (1 - f) · p)
    cosine       rate · (f + (1 - f) · ½ (1 + cos(π p)))       (Loshchilov & Hutter, 2017)

where p = (step - W) / (S - W), at most 1, and f = `optimizer.final_fraction`. S is not
`train.steps`: that may be raised when a run goes on, and the steps that are done would then have
had another rate.
"""

import math

from visual_r1.config import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of `step`, counted from 0."""
    rate, settings = config.train.learning_rate, config.optimizer
    warmup = settings.warmup_steps
    if step < warmup:
        return rate * (step + 1) / warmup
    if settings.schedule == "constant" or settings.schedule_steps is None:
        return rate
    done = min(1.0, (step - warmup) / (settings.schedule_steps - warmup))
    left = 1.0 - done if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return rate * (settings.final_fraction + (1.0 - settings.final_fraction) * left)
