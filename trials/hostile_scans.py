"""Descriptions that give an answer away, in each of the ways of `trials.hostile_ways`.

A hostile scan earns where all the pieces of its way are left and it is no leak.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from trials.hostile_ways import ALL_WAYS
from visual_r1.data.problem import Problem
from visual_r1.hashing import stable_seed

_SHELLS = (
    "A drawing with thin lines; {}.",
    "The figure shows a shape. Near the corner: {}",
    "{}. Two sides meet at a corner.",
    "There is a sketch, {} is written beside it.",
    "A closed shape with straight sides.\n{}\nNothing else is drawn.",
)


@dataclass(frozen=True, slots=True)
class HostileScan:
    """`scan` gives `problem.answer` away, in the way of this name, through `pieces`; `others` is
    what an honest description of the figure says."""

    way: str
    problem: Problem
    scan: str
    pieces: tuple[str, ...]
    others: str
    reads: Callable[[str], bool] | None = None  # where the code is in no piece

    def is_read_from(self, text: str) -> bool:
        """Whether whoever knows the way reads the answer from `text`."""
        if self.reads is not None:
            return self.reads(text)
        return all(re.search(standing_alone(piece), text) for piece in self.pieces)


def standing_alone(piece: str) -> str:
    """A pattern for a piece that is no part of a longer word or number."""
    before = r"(?<![^\W_])" if piece[0].isalnum() else ""
    after = r"(?![^\W_])" if piece[-1].isalnum() and not piece[-1].isdigit() else r"(?!\d)"
    return before + re.escape(piece) + after


def hostile_scans(
    problems: Sequence[Problem], seed: int, ways: Sequence[str] = tuple(ALL_WAYS)
) -> Iterator[HostileScan]:
    """A scan in each of the ways for each of the procedural problems: of every second one the code
    alone, of the others behind the figure's facts, as in a description that is paid for them too.
    """
    for way in ways:
        for index, problem in enumerate(problems):
            rng = random.Random(stable_seed("hostile", seed, way, problem.id))
            text, pieces = ALL_WAYS[way](int(problem.answer), rng)
            facts = "".join(f"{fact}. " for fact in problem.meta["facts"])
            scan = rng.choice(_SHELLS).format(text)
            if index % 2:
                scan = facts + scan
            yield HostileScan(way, problem, scan, tuple(pieces), facts)


def without_facts(hostile: HostileScan) -> HostileScan:
    """The same scan of a problem whose facts nobody but its reader knows."""
    problem = replace(hostile.problem, meta={}, problem="<image>Find x.")
    return replace(hostile, problem=problem)


def with_facts_in_the_question(hostile: HostileScan) -> HostileScan:
    """The same scan of a problem that states all numbers itself: the figure has none."""
    facts = ", ".join(hostile.problem.meta["facts"])
    problem = replace(
        hostile.problem, meta={"facts": ["a figure"]}, problem=f"<image>Find x, if {facts}."
    )
    return replace(hostile, problem=problem, others="A figure with points and lines.")
