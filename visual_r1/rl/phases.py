"""Where the wall time of a step goes.

The phases follow one another; what overlaps on the server cannot be told apart from here. Second
passes are asked for while first ones are still sampled, so the first pass lasts until its last
answer has come, and the second pass is what is left to wait for after it.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

Phase = Literal["sampler", "prompts", "first_pass", "second_pass", "kl"]

PHASES: tuple[Phase, ...] = ("sampler", "prompts", "first_pass", "second_pass", "kl")


class Phases:
    """Seconds by phase, summed where a phase comes again (dynamic sampling, say).

    `grading` is what grading the answers and preparing their second passes took; it lies within
    the two passes, while the server goes on sampling.
    """

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self.grading = 0.0

    def add(self, phase: Phase, seconds: float) -> None:
        """Count `seconds` more for `phase`."""
        self.seconds[phase] += seconds

    @contextmanager
    def during(self, phase: Phase) -> Generator[None]:
        """Add the time of the block to `phase`; of a block that fails, too."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(phase, time.monotonic() - began)

    @contextmanager
    def while_grading(self) -> Generator[None]:
        """Add the time of the block to `grading`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.grading += time.monotonic() - began
