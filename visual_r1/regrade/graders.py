"""Grading in several processes: the grader is pure and bounded, so any of them may do any part.

A process ends with the one that asked it, however that ends. What is graded comes back in order.
This file imports little, for each process imports it anew.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from visual_r1.errors import VisualR1Error
from visual_r1.grading import (
    Grade,
    Rounding,
    Verdict,
    extract_answer,
    failed_grade,
    grade,
    grade_answer,
)

# Fewer are graded in about the time that it takes to start processes.
WORTH_A_PROCESS = 10_000
_SLICE = 200


@dataclass(frozen=True, slots=True)
class Stored:
    """A response, with the `<think>` that its prompt may have written, and what it is graded by;
    `choices` are those that the problem shows."""

    response: str
    gold: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Again:
    """The two grades of a response, and the answer that they are of."""

    extracted: str | None
    exact: Grade
    rounded: Grade

    def under(self, rounding: Rounding) -> Grade:
        """The grade under a rounding."""
        return self.exact if rounding == "exact" else self.rounded


@lru_cache(maxsize=2**16)
def _graded(answer: str, gold: str, rounding: Rounding, choices: tuple[str, ...]) -> Grade:
    try:
        return grade_answer(answer, gold, rounding, choices=choices)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a fault of ours at one text; all others are graded
        return failed_grade(error)


def grade_again(one: Stored) -> Again:
    """Both grades of one response."""
    answer = extract_answer(one.response)
    if answer is None:
        none = grade(one.response, one.gold)
        return Again(None, none, none)
    exact = _graded(answer, one.gold, "exact", one.choices)
    rounded = _graded(answer, one.gold, "rounded", one.choices)
    return Again(answer, exact, rounded)


Row = tuple[str | None, Verdict, str, Verdict, str]


def _grade_slice(slice_: Sequence[tuple[str, str, tuple[str, ...]]]) -> list[Row]:
    found = (grade_again(Stored(*one)) for one in slice_)
    return [
        (
            one.extracted,
            one.exact.verdict,
            one.exact.reason,
            one.rounded.verdict,
            one.rounded.reason,
        )
        for one in found
    ]


class Graders:
    """Grades what it is given, in `processes` processes or, where that is 1, in this one."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool

    def grade(self, stored: Sequence[Stored]) -> list[Again]:
        """Both grades of each, in order.

        Raises `VisualR1Error` where one of the processes was killed.
        """
        if self._pool is None:
            return [grade_again(one) for one in stored]
        rows = [(one.response, one.gold, one.choices) for one in stored]
        slices = [rows[at : at + _SLICE] for at in range(0, len(rows), _SLICE)]
        try:
            done = list(self._pool.map(_grade_slice, slices))
        except BrokenProcessPool as error:
            raise VisualR1Error(
                "A process that graded was killed, for want of memory perhaps: what was done "
                "before is kept, and the same command goes on; --processes 1 takes the least."
            ) from error
        return [
            Again(answer, Grade(exact, why), Grade(rounded, why_rounded))
            for part in done
            for answer, exact, why, rounded, why_rounded in part
        ]


@contextmanager
def open_graders(processes: int, expected: int) -> Generator[Graders]:
    """Graders for about `expected` responses; where they are few, one process does it."""
    if processes <= 1 or expected < WORTH_A_PROCESS:
        yield Graders(None)
        return
    # Spawned: a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_end_with_parent)
    try:
        yield Graders(pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent, and go when it goes: a pool's processes would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
