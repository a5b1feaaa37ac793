"""Where a run stands, told from what it prints, and when to kill it next."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

START = "start"
SAVING = "saving"

# What a line of the program says about what it does from there on; the first that fits counts.
PHASES = (
    ("prepare: done", "opening"),
    ("prepare", "preparation"),
    ("from step", "opening"),
    ("checkpoint ", "opening"),
    ("exported", "end"),
    ("export: done", "opening"),
    ("export", "export"),
    ("evaluate baseline: done", "opening"),
    ("evaluate baseline", "baseline evaluation"),
    ("evaluate final: done", "report"),
    ("evaluate final", "final evaluation"),
    ("training, steps", "steps"),
    ("validate step", "validation"),
)


def phase_of(line: str) -> str | None:
    """The phase that begins with this line; None where it says nothing of that."""
    text = line.strip()
    if ": done" in text and text.startswith("training, steps"):
        return SAVING
    if ": done" in text and text.startswith("validate step"):
        return "opening"
    return next((phase for start, phase in PHASES if text.startswith(start)), None)


@dataclass(frozen=True)
class Pace:
    """How an undisturbed run went: its seconds, its events, and the mean seconds of each phase,
    in the order in which they first came."""

    seconds: float
    events: int
    phases: dict[str, float]

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.phases.items())
        return f"{self.seconds:.0f} s, {self.events} events; mean seconds of {phases}"


def pace_of(events: Sequence[tuple[float, str]], seconds: float) -> Pace:
    """The pace of a run that began at 0, had `events` (when, what) and ended after `seconds`."""
    moments = [(0.0, START), *events, (seconds, "")]
    spans: dict[str, list[float]] = {}
    for (began, phase), (ended, _) in pairwise(moments):
        spans.setdefault(phase, []).append(ended - began)
    means = {phase: sum(found) / len(found) for phase, found in spans.items()}
    return Pace(seconds, len(events), means)


@dataclass(frozen=True)
class Aim:
    """A moment: `seconds` after `count` more events; of `phase` where one is named."""

    count: int
    phase: str | None
    seconds: float


def draw_by_event(rng: random.Random, pace: Pace) -> Aim:
    """A fifth uniformly over the time of a run, two by its events, so that steps get their share
    beside the slow start, and two over the saving of a checkpoint."""
    save_seconds = pace.phases[SAVING]
    how = rng.choice(("time", "event", "event", "save", "save"))
    if how == "time":
        return Aim(0, None, rng.uniform(0, pace.seconds))
    if how == "event":
        return Aim(rng.randint(1, pace.events // 2), None, rng.uniform(0, save_seconds))
    return Aim(rng.choice((1, 1, 2)), SAVING, rng.uniform(0, save_seconds))


def spread_over_phases(seed: int, run: int, most: int, pace: Pace) -> list[Aim]:
    """The kills of one run: `most` phases of all, drawn without repeats over several runs, in the
    order in which they come; the moment is uniform over the time that the phase takes."""
    order = list(pace.phases)
    deck = random.Random(f"{seed}-phases").sample(order, len(order))
    rng = random.Random(f"{seed}-moments-{run}")
    hand = {deck[(run * most + place) % len(deck)] for place in range(most)}
    return [
        Aim(0 if phase == START else 1, phase, rng.uniform(0, pace.phases[phase]))
        for phase in sorted(hand, key=order.index)
    ]
