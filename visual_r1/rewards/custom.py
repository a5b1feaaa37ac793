"""A user's own component of the reward, by import path: `reward.custom = "my_module:my_reward"`.

    def my_reward(sample: RewardInput, grade: Grade) -> float

The module is one that Python finds, or a file in the working directory. The function must be pure:
the same sample gives the same number in every process, or a resumed run is another run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

from visual_r1.errors import RewardError
from visual_r1.grading import Grade
from visual_r1.own_code import REWARD, failure, own_function, shortened
from visual_r1.rewards.sample import RewardInput


@dataclass(frozen=True, slots=True)
class CustomReward:
    """A user's function: the path it is named by, and the file it stands in (None: no file)."""

    path: str
    function: Callable[..., Any]
    file: Path | None

    def __call__(self, sample: RewardInput, grade: Grade) -> float:
        """The function's value for one sample.

        Raises `RewardError`, naming the function, where it raises anything or returns anything but
        a finite number.
        """
        try:
            value = self.function(sample, grade)
        # What a user's code raises is not ours to list, `sys.exit()` included; it is named, counted
        # and costs its sample. Ctrl-C goes through.
        except (Exception, SystemExit) as error:
            raise RewardError(f"{self.path} failed with {failure(error)}") from error
        if not isinstance(value, Real):
            raise RewardError(
                f"{self.path} returned {shortened(value)} ({type(value).__name__}), which is no "
                "number"
            )
        try:
            number = float(value)
        except OverflowError as error:
            raise RewardError(f"{self.path} returned a number beyond all floats") from error
        if not math.isfinite(number):
            raise RewardError(f"{self.path} returned {number}, which is not finite")
        return number


@lru_cache
def load_custom(path: str) -> CustomReward:
    """The function that `module:function` names; raises `ConfigError` as `own_function` does."""
    found = own_function(path, REWARD)
    return CustomReward(path, found.function, found.file)
