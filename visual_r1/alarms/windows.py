"""Windows of steps, and whether one is above another by more than the noise between steps.

A step's mean is a draw of its own: other problems, other samples. So the spread of the means within
a window says how sure its mean is, and two windows are compared by Welch's t-test (1947, The
generalization of Student's problem when several different population variances are involved).
A trend inside of a window widens its spread, which makes the test more careful, never less.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

Floats = npt.NDArray[np.float64]
# A row of metrics.jsonl or validation.jsonl; `step` says of which step.
StepRow = Mapping[str, Any]

_special: Any = special  # it has no type stubs


class Curves:
    """The columns of the rows of metrics.jsonl or validation.jsonl, by the name of the column.

    A row that lacks a value, or holds null or something that is no finite number, is no point of
    that column: files of earlier versions have fewer columns.
    """

    def __init__(self, rows: Sequence[StepRow]) -> None:
        self._rows = sorted(
            (row for row in rows if isinstance(row.get("step"), int)), key=lambda row: row["step"]
        )
        self._columns: dict[str, tuple[npt.NDArray[np.int64], Floats]] = {}

    @property
    def steps(self) -> list[int]:
        """The steps of all rows, in order."""
        return [row["step"] for row in self._rows]

    @property
    def on_policy(self) -> "Curves":
        """The rows whose samples are of the weights that learnt from them."""
        return Curves([row for row in self._rows if not row.get("staleness")])

    def column(self, name: str) -> tuple[npt.NDArray[np.int64], Floats]:
        """(steps int64 [N], values float64 [N]) of the rows that have the value."""
        if name not in self._columns:
            points = [
                (row["step"], float(value))
                for row in self._rows
                if isinstance(value := row.get(name), int | float)
                and not isinstance(value, bool)
                and math.isfinite(value)
            ]
            self._columns[name] = (
                np.array([step for step, _ in points], dtype=np.int64),
                np.array([value for _, value in points], dtype=np.float64),
            )
        return self._columns[name]

    def up_to(self, name: str, step: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """`column(name)`, up to and including the row of `step`."""
        steps, values = self.column(name)
        count = int(np.searchsorted(steps, step, side="right"))
        return steps[:count], values[:count]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A run of n points, float64 [n], with their first and last step, and their mean."""

    first: int
    last: int
    values: Floats
    mean: float

    @property
    def error(self) -> float:
        """The standard error of the mean, from the sample variance."""
        return math.sqrt(float(self.values.var(ddof=1)) / len(self.values))

    def p_other_than(self, mean: float) -> float:
        """How likely chance is to put the mean so far from `mean`, either way (Student's t)."""
        away = abs(self.mean - mean)
        if self.error == 0:
            return 0.0 if away > 0 else 1.0
        return 2 * float(_special.stdtr(len(self.values) - 1, -away / self.error))

    @property
    def where(self) -> str:
        """`steps 0 to 9`."""
        return f"steps {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class Change:
    """From an earlier window to the newest one."""

    before: Window
    now: Window

    @property
    def rise(self) -> float:
        """The difference of the means."""
        return self.now.mean - self.before.mean

    def p_rise(self) -> float:
        """How likely chance alone is to show such a rise, or a larger one (Welch, one-sided)."""
        return Change(self.now, self.before).p_fall()

    def p_fall(self, from_rise: float = 0.0) -> float:
        """How likely such a fall is, or a larger one, where the truth is a rise by `from_rise`."""
        away = self.rise - from_rise
        a, b = self.before.error**2, self.now.error**2
        if a + b == 0:
            return 0.0 if away < 0 else 1.0
        parts = a**2 / (len(self.before.values) - 1) + b**2 / (len(self.now.values) - 1)
        return float(_special.stdtr((a + b) ** 2 / parts, away / math.sqrt(a + b)))

    def of(self, curves: Curves, name: str) -> "Change | None":
        """The change of another column over the same steps; None where it has too few points."""
        steps, values = curves.column(name)
        before, now = (
            _window(steps[start:end], values[start:end])
            for window in (self.before, self.now)
            for start, end in [np.searchsorted(steps, [window.first, window.last + 1])]
        )
        return Change(before, now) if before and now else None


def changes(curves: Curves, name: str, step: int, width: int) -> Iterator[Change]:
    """The newest `width` points up to `step`, against earlier windows of as many points.

    Those are the very first, then the ones just before, twice as far back, four times, and so on: a
    slow change shows against the first, a late one against a near one. Nothing where there are not
    two windows yet.
    """
    steps, values = curves.up_to(name, step)
    count = len(values)
    if count < 2 * width:
        return
    now = _window(steps[-width:], values[-width:])
    starts = [0]
    distance = width
    while (start := count - width - distance) > 0:
        starts.append(start)
        distance *= 2
    for start in starts:
        before = _window(steps[start : start + width], values[start : start + width])
        if before and now:
            yield Change(before, now)


def newest(curves: Curves, name: str, step: int, width: int) -> Window | None:
    """The newest `width` points up to `step`; None where there are fewer."""
    steps, values = curves.up_to(name, step)
    return _window(steps[-width:], values[-width:]) if len(values) >= width else None


def _window(steps: npt.NDArray[np.int64], values: Floats) -> Window | None:
    if len(values) < 2:
        return None
    return Window(int(steps[0]), int(steps[-1]), values, float(values.sum()) / len(values))
