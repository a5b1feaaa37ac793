"""Do the intervals of an evaluation hold what they say, and the tests see what they should?

    python benchmarks/intervals.py                          # all, as docs/statistics.md has it
    python benchmarks/intervals.py --simulations 500 --only seeds

Draws evaluations whose truth is known, and counts how often the 95 % interval of our own functions
holds it, beside scipy's bootstraps over problems where there is one. Prints Markdown tables.
Wilson's coverage needs no draw: it is a sum over all outcomes.
"""

import argparse
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# The package stands beside this folder.
sys.path.append(str(Path(__file__).parents[1]))

from visual_r1.evaluation.clustered import mean_difference, mean_share
from visual_r1.evaluation.seeds import gains
from visual_r1.evaluation.statistics import (
    Gain,
    Interval,
    Pairs,
    exact_mcnemar,
    paired_difference_ci,
    smallest_detectable,
    wilson,
)

K = 8  # samples a problem
BOOTSTRAPS = 200  # simulations of scipy's, which take a hundred times as long
Draw = np.random.Generator


def shown(covered: float) -> str:
    """A coverage in percent, marked where it is outside of 94 to 96."""
    covered = round(covered, 3)
    mark = "" if 0.94 <= covered <= 0.96 else " ↑" if covered > 0.96 else " ↓"
    return f"{100 * covered:.1f}{mark}"


def table(headings: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
    """Print the rows as they come."""
    print(f"\n| {' | '.join(headings)} |\n| {' | '.join('---:' for _ in headings)} |")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def holds(interval: Interval, truth: float) -> bool:
    return interval[0] - 1e-12 <= truth <= interval[1] + 1e-12


def wilsons(_: int) -> None:
    """Exact coverage, over shares from 2 to 98 %."""

    def rows() -> Iterator[Sequence[object]]:
        for n in (30, 100, 512, 601):
            intervals = [wilson(right, n) for right in range(n + 1)]
            covered: list[float] = []
            for share in np.linspace(0.02, 0.98, 97):
                chances = stats.binom.pmf(np.arange(n + 1), n, share)
                inside = [holds(one, float(share)) for one in intervals]
                covered.append(float(chances[inside].sum()))
            yield n, shown(float(np.mean(covered))), shown(min(covered)), shown(max(covered))

    print("\n### Wilson, a share of n problems (exact)")
    table(("n", "mean over shares", "least", "most"), rows())


@cache
def _newcombe(both: int, gained: int, lost: int, neither: int) -> Interval:
    return paired_difference_ci(Pairs(both, gained, lost, neither))


def newcombes(simulations: int) -> None:
    """The paired difference of two evaluations."""

    def rows() -> Iterator[Sequence[object]]:
        draw = np.random.default_rng(1)
        for n in (50, 100, 512, 601):
            for gained, lost, both in (
                (0.26, 0.06, 0.60), (0.12, 0.04, 0.56), (0.05, 0.05, 0.40), (0.03, 0.03, 0.90),
                (0.02, 0.01, 0.02),
            ):  # fmt: skip
                drawn = draw.multinomial(
                    n, [both, gained, lost, 1 - both - gained - lost], size=simulations
                )
                inside = [holds(_newcombe(*row), gained - lost) for row in drawn.tolist()]
                yield n, f"{gained:.0%} / {lost:.0%}", f"{both:.0%}", shown(float(np.mean(inside)))

    print("\n### Newcombe's method 10, the difference of two evaluations of n problems")
    table(("n", "gained / lost", "right in both", "coverage"), rows())


def _bootstraps(draws: NDArray[np.float64], truth: float) -> list[str]:
    """Coverage of scipy's percentile and BCa bootstrap of the mean over problems."""
    found: list[str] = []
    for method in ("percentile", "BCa"):
        inside: list[bool] = []
        for place, values in enumerate(draws[:BOOTSTRAPS]):
            with warnings.catch_warnings():  # BCa where all values are alike
                warnings.simplefilter("ignore")
                made: Any = stats.bootstrap(
                    (values,),
                    np.mean,
                    n_resamples=499,
                    method=method,
                    rng=np.random.default_rng(place),
                )
            interval = made.confidence_interval
            inside.append(holds((interval.low, interval.high), truth))
        found.append(shown(float(np.mean(inside))))
    return found


def shares(simulations: int) -> None:
    """avg@8: chances of problems from a beta distribution, eight samples of each."""

    def rows() -> Iterator[Sequence[object]]:
        draw = np.random.default_rng(2)
        for n in (30, 100, 512):
            for mean, weight in ((0.5, 2), (0.5, 20), (0.7, 1), (0.9, 1), (0.97, 2), (0.05, 1)):
                chance = draw.beta(mean * weight, (1 - mean) * weight, size=(simulations, n))
                drawn = draw.binomial(K, chance) / K
                inside = [holds(mean_share(row).ci95, mean) for row in drawn.tolist()]
                apart = 1 / (1 + weight)  # the correlation of two samples of one problem
                own = shown(float(np.mean(inside)))
                yield n, f"{mean:.0%}", f"{apart:.2f}", own, *_bootstraps(drawn, mean)

    print(f"\n### avg@{K} over n problems (`mean_share`)")
    headings = ("n", "avg@8", "correlation of samples", "coverage", "percentile", "BCa")
    table(headings, rows())


def differences(simulations: int) -> None:
    """avg@8 before and after: a part of the problems becomes certain, the rest stays."""

    def rows() -> Iterator[Sequence[object]]:
        draw = np.random.default_rng(3)
        for n in (30, 100, 512):
            for mean, gain, weight in (
                (0.5, 0.1, 2), (0.5, 0, 20), (0.7, 0, 1), (0.7, 0.2, 1), (0.9, 0.05, 1),
                (0.05, 0.02, 1),
            ):  # fmt: skip
                before = draw.beta(mean * weight, (1 - mean) * weight, size=(simulations, n))
                certain = draw.random((simulations, n)) < gain / (1 - mean)
                after = np.where(certain, 1.0, before)
                drawn = (draw.binomial(K, after) - draw.binomial(K, before)) / K
                inside = [holds(mean_difference(row).ci95, gain) for row in drawn.tolist()]
                own = shown(float(np.mean(inside)))
                yield n, f"{mean:.0%}", f"{100 * gain:+.0f}", own, *_bootstraps(drawn, gain)

    print(f"\n### The difference of avg@{K} over n problems (`mean_difference`)")
    table(("n", "before", "points gained", "coverage", "percentile", "BCa"), rows())


def seeds(simulations: int) -> None:
    """Settings of several seeds: problems and seeds are drawn anew each time."""
    many = np.random.default_rng(5).beta(1.5, 0.7, 1_000_000)
    lucks = np.random.default_rng(6).normal(0, 1, 1_000_000)

    def side(draw: Draw, chance: Any, count: int, scatter: float) -> Any:
        luck = draw.normal(0, scatter if count > 1 else 0, (count, 1))
        return draw.random((count, chance.shape[1])) < np.clip(chance + luck, 0, 1)

    def truth(factor: float, count: int, scatter: float) -> float:
        return float(np.clip(factor * many + (lucks * scatter if count > 1 else 0), 0, 1).mean())

    def rows() -> Iterator[Sequence[object]]:
        draw = np.random.default_rng(7)
        for settings, before, after in (
            (1, 1, 2), (1, 1, 3), (1, 1, 5), (1, 2, 2), (1, 3, 3), (1, 5, 5), (4, 1, 2), (4, 1, 3),
            (4, 1, 5),
        ):  # fmt: skip
            for n in (32, 128, 512):
                cells: list[str] = []
                for scatter in (0.0, 0.01, 0.03, 0.06):
                    true = truth(1, after, scatter) - truth(0.75, before, scatter)
                    inside: list[bool] = []
                    while len(inside) < simulations:
                        chance = draw.beta(1.5, 0.7, (1, n))
                        one = side(draw, 0.75 * chance, before, scatter)
                        others = [side(draw, chance, after, scatter) for _ in range(settings)]
                        found = gains([one] * settings, others)
                        inside += [holds(gain.ci95, true) for gain in found]
                    cells.append(shown(float(np.mean(inside))))
                yield settings, f"{before} / {after}", n, *cells

    print("\n### Several seeds, before / after (`seeds.gains`), by the scatter of seeds")
    headings = ("settings", "seeds", "n", "0 points", "1 point", "3 points", "6 points")
    table(headings, rows())


def few(simulations: int) -> None:
    """Few problems, some of which become certain, either way: coverage, and where as many are
    gained as lost how often p < 0.05."""

    def drawn(draw: Draw, n: int, gained: float, lost: float) -> tuple[Any, Any]:
        chance, fate = draw.beta(0.7, 0.7, n), draw.random(n)
        becomes, was = fate < gained, (fate >= gained) & (fate < gained + lost)
        return np.where(becomes, 0, np.where(was, 1, chance)), np.where(
            becomes, 1, np.where(was, 0, chance)
        )

    def of_seeds(draw: Draw, before: Any, after: Any, counts: tuple[int, int]) -> Gain:
        def answers(chance: Any, count: int) -> Any:
            luck = draw.normal(0, 0.05 if count > 1 else 0, (count, 1))
            return draw.random((count, len(chance))) < np.clip(chance + luck, 0, 1)

        (gain,) = gains([answers(before, counts[0])], [answers(after, counts[1])])
        return gain

    def of_samples(draw: Draw, before: Any, after: Any, _: tuple[int, int]) -> Gain:
        return mean_difference(((draw.binomial(K, after) - draw.binomial(K, before)) / K).tolist())

    def rows() -> Iterator[Sequence[object]]:
        draw = np.random.default_rng(9)
        for name, made, counts in (
            ("greedy", of_seeds, (1, 1)), ("seeds 1 / 3", of_seeds, (1, 3)),
            ("seeds 3 / 3", of_seeds, (3, 3)), (f"avg@{K}", of_samples, (1, 1)),
        ):  # fmt: skip
            for n in (1, 2, 3, 5, 10, 30):
                cells: list[str] = []
                for gained, lost in ((0, 0), (0.25, 0.25), (0.5, 0.5), (0.5, 0.2), (0.8, 0.05)):
                    found = [
                        made(draw, *drawn(draw, n, gained, lost), counts)
                        for _ in range(simulations)
                    ]
                    inside = np.mean([holds(gain.ci95, gained - lost) for gain in found])
                    seen = np.mean([gain.p_value < 0.05 for gain in found])
                    rate = f", {100 * seen:.1f}" if gained == lost else ""
                    cells.append(f"{100 * inside:.1f}{rate}")
                yield name, n, *cells

    print(
        "\n### Few problems: coverage, and how often p < 0.05 where nothing has changed on average"
    )
    changes = ("0 / 0", "25% / 25%", "50% / 50%", "50% / 20%", "80% / 5%")
    table(("", "n", *changes), rows())

    def shares_of_few() -> Iterator[Sequence[object]]:
        draw = np.random.default_rng(10)
        for n in (1, 2, 3, 5, 10):
            cells: list[str] = []
            for mean, weight in ((0.0, 1), (0.05, 1), (0.5, 1), (0.5, 20), (0.9, 1), (1.0, 1)):
                size = (simulations, n)
                chance: Any = np.full(size, mean)
                if 0 < mean < 1:
                    chance = draw.beta(mean * weight, (1 - mean) * weight, size=size)
                rows = (draw.binomial(K, chance) / K).tolist()
                cells.append(
                    shown(float(np.mean([holds(mean_share(row).ci95, mean) for row in rows])))
                )
            yield n, *cells

    print(f"\n### Few problems: avg@{K} (`mean_share`)")
    headings = ("n", "none right", "5%", "50%", "50%, alike", "90%", "all right")
    table(headings, shares_of_few())


def power(simulations: int) -> None:
    """How often McNemar sees a difference of the size that `smallest_detectable` names."""

    def rows() -> Iterator[Sequence[object]]:
        draw = np.random.default_rng(8)
        for n in (100, 512, 601, 2000):
            for changed in (0.03, 0.1, 0.2, 0.4):
                size = smallest_detectable(Pairs(n, 0, 0, 0), share_changed=changed)
                gained = (max(changed, size) + size) / 2
                lost = max(changed, size) - gained
                chances = [gained, lost, 1 - gained - lost]
                drawn = draw.multinomial(n, chances, size=simulations)
                seen = np.mean([_p_value(int(a), int(b)) < 0.05 for a, b, _ in drawn])
                yield n, f"{changed:.0%}", f"{100 * size:.1f}", f"{100 * seen:.1f}%"

    print("\n### Power: differences of the size that is called detectable, and how many are seen")
    table(("n", "share that changes", "points", "seen (80% is meant)"), rows())


@cache
def _p_value(gained: int, lost: int) -> float:
    return exact_mcnemar(gained, lost)


PARTS: dict[str, Callable[[int], None]] = {
    "wilson": wilsons,
    "newcombe": newcombes,
    "shares": shares,
    "differences": differences,
    "seeds": seeds,
    "few": few,
    "power": power,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--simulations", type=int, default=4000)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    error = 100 * math.sqrt(0.95 * 0.05 / given.simulations)
    theirs = 100 * math.sqrt(0.95 * 0.05 / BOOTSTRAPS)
    print(
        f"{given.simulations} simulations a cell, standard error {error:.2f} points ({BOOTSTRAPS} "
        f"and {theirs:.1f} for scipy's bootstraps); ↑ above 96%, ↓ below 94%. "
        f"{platform.machine()}, {os.cpu_count()} cores."
    )
    for name in given.only:
        start = time.monotonic()
        PARTS[name](given.simulations)
        print(f"\n{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
