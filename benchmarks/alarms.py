"""Do the alarms trip on what is planted, and on nothing else? One table, a row an alarm.

    python benchmarks/alarms.py --output-dir DIR --rounds 3       # three seeds of everything
    python benchmarks/alarms.py --output-dir DIR --count-only     # what is in DIR already
    python benchmarks/alarms.py --output-dir DIR --only tempered colder --rounds 5
    python benchmarks/alarms.py --output-dir DIR --also runs/quickstart-0a1b2c3d …

Healthy runs are the quickstart over 60 steps with `--problems` problems a step (8), in groups of 8
and of 4; those of `--also` are whatever they are, and `--simulated` more (400) are drawn from the
rows of all these: the trends of one, and its noise in another order. Those are counted apart, for
they are no evidence of what real runs have and these have not. What is planted is said in
`alarm_runs/runs.py`, and in rows alone in `alarm_runs/rows.py`. What is in DIR is not run again.

Prints the table and writes DIR/alarms.json; docs/alarms.md holds the table.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

# The folder `trials` stands beside this one.
sys.path.append(str(Path(__file__).parents[1]))

from alarm_runs.rows import (
    PLANTED_AT,
    ROW_FAULTS,
    Rows,
    findings_of,
    read_rows,
    simulated,
    with_fault,
)
from alarm_runs.runs import DONE, HEALTHY, PLANTED, train
from scipy import stats

from visual_r1.alarms import Finding
from visual_r1.alarms.finding import ALARMS, AlarmName
from visual_r1.errors import VisualR1Error
from visual_r1.evaluation.statistics import wilson

FIRST_SEED = 700
SIMULATED_STEPS = 60


@dataclass(frozen=True)
class Healthy:
    """What an alarm said of runs in which nothing is wrong."""

    runs: int
    steps: int
    false_runs: int
    false_alarms: int

    @classmethod
    def of(cls, found: Sequence[tuple[Rows, list[Finding]]], alarm: AlarmName) -> "Healthy":
        """The count over runs with what was found in them."""
        told = [sum(one.alarm == alarm for one in findings) for _, findings in found]
        steps = sum(len(rows.metrics) for rows, _ in found)
        return cls(len(found), steps, sum(map(bool, told)), sum(told))

    @property
    def a_thousand_steps(self) -> tuple[float, float]:
        """The 95 % interval of false alarms a 1,000 steps: exact, of a Poisson count (Garwood)."""
        if not self.steps:
            return 0.0, float("inf")
        low = stats.chi2.ppf(0.025, 2 * self.false_alarms) / 2 if self.false_alarms else 0.0
        high = stats.chi2.ppf(0.975, 2 * self.false_alarms + 2) / 2
        return 1000 * float(low) / self.steps, 1000 * float(high) / self.steps

    def __str__(self) -> str:
        low, high = wilson(self.false_runs, self.runs)
        _, most = self.a_thousand_steps
        return (
            f"{self.false_runs} of {self.runs} runs [{100 * low:.0f}–{100 * high:.0f}%], "
            f"{self.false_alarms} in {self.steps:,} steps (at most {most:.1f} in 1,000)"
        )


@dataclass(frozen=True)
class Seen:
    """Over so many runs with a fault: the steps until its alarm saw it, None where it did not."""

    fault: str
    planted: str
    steps: tuple[int | None, ...]
    looked_at: int

    def __str__(self) -> str:
        there = sorted(step for step in self.steps if step is not None)
        if not self.steps:
            return "not run"
        if not there:
            return f"0 of {len(self.steps)} runs, in {self.looked_at} steps"
        spread = f"{there[0]} steps"
        if there[0] != there[-1]:
            spread = f"{there[0]}–{there[-1]} steps (median {median(there):g})"
        return f"{len(there)} of {len(self.steps)} runs, after {spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    names = [*HEALTHY, *PLANTED]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--also", nargs="+", type=Path, default=[], metavar="RUN")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--simulated", type=int, default=400)
    parser.add_argument("--count-only", action="store_true")
    arguments = parser.parse_args()
    output_dir = arguments.output_dir.absolute()
    if not arguments.count_only:
        for turn in range(arguments.rounds):
            for name in arguments.only:
                run_once(output_dir, name, FIRST_SEED + turn, arguments.problems)
    print("\n".join(table(output_dir, arguments.also, arguments.simulated)))


def run_once(output_dir: Path, kind: str, seed: int, problems: int) -> None:
    """One run of a kind, unless it has ended; one that fails is said, and the others go on."""
    name = f"{kind}-{seed}"
    if (output_dir / "runs" / name / DONE).exists():
        return
    try:
        train(output_dir, name, (HEALTHY | PLANTED)[kind], seed, problems)
    except VisualR1Error as error:
        print(f"{name}: {error}", file=sys.stderr)


def table(output_dir: Path, also: Sequence[Path], count: int) -> list[str]:
    """The lines of the table; alarms.json has the same and the single runs."""
    folders = sorted((output_dir / "runs").glob("healthy-*")) + list(also)
    real = [(rows, findings_of(rows)) for rows in map(read_rows, folders) if rows.metrics]
    made = [simulated([rows for rows, _ in real], seed, SIMULATED_STEPS) for seed in range(count)]
    drawn = [(rows, findings_of(rows)) for rows in made] if real else []
    lines = [
        "| alarm | false, in real healthy runs | false, in simulated ones | planted | seen |",
        "| --- | --- | --- | --- | --- |",
    ]
    content: dict[str, object] = {"runs": [rows.name for rows, _ in real]}
    for alarm in ALARMS:
        healthy, resampled = Healthy.of(real, alarm), Healthy.of(drawn, alarm)
        faults = [seen_in(output_dir, name, alarm) for name, run in PLANTED.items()
                  if alarm in run.alarms]  # fmt: skip
        faults += rows_seen(made[:50], alarm)
        for place, fault in enumerate(faults or [None]):
            said = f"{fault.planted} | {fault}" if fault else "nothing | "
            start = f"`{alarm}` | {healthy} | {resampled}" if place == 0 else " | | "
            lines.append(f"| {start} | {said} |")
        content[alarm] = {
            "healthy": asdict(healthy) | {"in_1000_steps_ci95": healthy.a_thousand_steps},
            "simulated": asdict(resampled) | {"in_1000_steps_ci95": resampled.a_thousand_steps},
            "planted": [asdict(fault) for fault in faults],
            "false": [
                {"run": rows.name, "step": one.step, "seen": one.seen}
                for rows, findings in (*real, *drawn) for one in findings if one.alarm == alarm
            ],
        }  # fmt: skip
    (output_dir / "alarms.json").write_text(json.dumps(content, indent=2) + "\n")
    return lines


def seen_in(output_dir: Path, name: str, alarm: AlarmName) -> Seen:
    """When an alarm saw the runs of a fault that have ended: its first finding."""
    run = PLANTED[name]
    folders = sorted(path.parent for path in (output_dir / "runs").glob(f"{name}-*/{DONE}"))
    runs = [read_rows(folder) for folder in folders]
    steps = [_first(findings_of(rows), alarm) for rows in runs]
    looked_at = sum(len(rows.metrics) for rows in runs)
    return Seen(name, run.planted, tuple(steps), looked_at)


def rows_seen(healthy: Sequence[Rows], alarm: AlarmName) -> list[Seen]:
    """What is planted in simulated rows, and after how many steps from there it was seen."""
    found: list[Seen] = []
    for name, fault in ROW_FAULTS.items():
        if fault.alarm != alarm:
            continue
        runs = [with_fault(rows, name, seed) for seed, rows in enumerate(healthy)]
        steps = [_first(findings_of(rows), alarm, since=PLANTED_AT) for rows in runs]
        looked_at = sum(len(rows.metrics) - PLANTED_AT for rows in runs)
        found.append(Seen(name, f"in simulated rows: {fault.planted}", tuple(steps), looked_at))
    return found


def _first(found: Sequence[Finding], alarm: AlarmName, since: int = 0) -> int | None:
    """How many steps were done when the alarm first tripped, counted from step `since`."""
    steps = [one.step - since + 1 for one in found if one.alarm == alarm and one.step >= since]
    return min(steps, default=None)


if __name__ == "__main__":
    main()
