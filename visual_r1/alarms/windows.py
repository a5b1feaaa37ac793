"""Windows of steps, and whether one is above another by more than the noise between steps.

A step's mean is a draw of its own: other problems, other samples. So the spread of the means within
a window says how sure its mean is, and two windows are compared by Welch's t-test (1947, The
generalization of Student's problem when several different population variances are involved).
A trend inside of a window widens its spread, which makes the test more careful, never less.
"""

import math
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Steps = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# A row of metrics.jsonl or validation.jsonl; `step` says of which step.
StepRow = Mapping[str, Any]


def special() -> Any:
    """`scipy.special`; it has no type stubs."""
    # A fifth of a second to import: who reads findings that are there does without.
    from scipy import special  # pyright: ignore[reportMissingTypeStubs]

    return special


class Curves:
    """The columns of the rows of metrics.jsonl or validation.jsonl, by the name of the column.

    A row that lacks a value, or holds null or something that is no finite number, is no point of
    that column: files of earlier versions have fewer columns. Rows themselves are not kept, so a
    long run takes some numbers a step, and rows that come later are added.
    """

    def __init__(self, rows: Sequence[StepRow] = ()) -> None:
        self._steps = array("q")
        self._points: dict[str, tuple[array[int], array[float]]] = {}
        self._columns: dict[str, tuple[Steps, Floats]] = {}
        self._first, self._end = 0, sys.maxsize
        self._left_out: Steps = np.empty(0, dtype=np.int64)
        self.add(
            sorted(
                (row for row in rows if isinstance(row.get("step"), int)),
                key=lambda row: row["step"],
            )
        )

    def add(self, rows: Iterable[StepRow]) -> None:
        """Add rows in the order of their steps, later ones than those that are there."""
        for row in rows:
            step = row["step"]
            self._steps.append(step)
            for name, value in row.items():
                if name != "step" and type(value) in (int, float) and math.isfinite(value):
                    steps, values = self._points.setdefault(name, (array("q"), array("d")))
                    steps.append(step)
                    values.append(value)
            self._columns.clear()

    def between(self, first: int, end: int) -> "Curves":
        """The same, without the rows before step `first` and those from `end` on."""
        part = copy(self)
        part._columns = {}
        part._first, part._end = max(first, self._first), min(end, self._end)
        return part

    @property
    def on_policy(self) -> "Curves":
        """The rows whose samples are of the weights that learnt from them: without `staleness`."""
        steps, staleness = self.column("staleness")
        part = copy(self)
        part._columns, part._left_out = {}, steps[staleness > 0]
        return part

    @property
    def end(self) -> int:
        """The step after the last one; 0 where there is none."""
        return self._steps[-1] + 1 if self._steps else 0

    def steps_from(self, step: int) -> Sequence[int]:
        """The steps of all rows from `step` on, in order."""
        first = bisect_left(self._steps, max(step, self._first))
        return self._steps[first : bisect_left(self._steps, self._end)]

    def column(self, name: str) -> tuple[Steps, Floats]:
        """(steps int64 [N], values float64 [N]) of the rows that have the value."""
        if name not in self._columns:
            steps, values = self._points.get(name, _NO_POINTS)
            part = slice(bisect_left(steps, self._first), bisect_left(steps, self._end))
            steps_N = np.array(steps[part], dtype=np.int64)
            values_N = np.array(values[part], dtype=np.float64)
            if len(self._left_out):
                kept_N = np.isin(steps_N, self._left_out, invert=True)
                steps_N, values_N = steps_N[kept_N], values_N[kept_N]
            self._columns[name] = steps_N, values_N
        return self._columns[name]

    def up_to(self, name: str, step: int) -> tuple[Steps, Floats]:
        """`column(name)`, up to and including the row of `step`."""
        steps, values = self.column(name)
        count = int(np.searchsorted(steps, step, side="right"))
        return steps[:count], values[:count]


_NO_POINTS: tuple["array[int]", "array[float]"] = array("q"), array("d")


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
        return 2 * float(special().stdtr(len(self.values) - 1, -away / self.error))

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
        return float(special().stdtr((a + b) ** 2 / parts, away / math.sqrt(a + b)))

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
