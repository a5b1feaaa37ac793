"""A sweep to its members: every run that it asks for, checked before the first is trained.

A member is an ordinary run under the name that its configuration gives it. So one that two sweeps
ask for is trained once, one that was trained before is found, and values that join a sweep later
leave the runs from before as they are.
"""

import itertools
import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from visual_r1.config import RunConfig, differing_keys
from visual_r1.config.overrides import laid_over
from visual_r1.errors import ConfigError
from visual_r1.hashing import stable_seed
from visual_r1.runs.start import with_start
from visual_r1.sft.settings import require_reinforcement
from visual_r1.sweeps.sweep import Distribution, RandomDraws, Sweep

SEED = "train.seed"
_DIGITS = 4  # significant ones of a drawn value, so that a person can read and write it

Changes = tuple[tuple[str, Any], ...]
"""Dotted names and values over the base, in the order of the names."""


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a sweep: the base with `changes`, and a seed.

    With `rung` it goes so many steps and is not evaluated yet.
    """

    changes: Changes
    seed: int
    label: str
    config: RunConfig
    rung: int | None = None

    @property
    def name(self) -> str:
        """With its seed, as a person tells it from the others."""
        return f"{self.label} seed={self.seed}"

    @property
    def title(self) -> str:
        """The same, and how far it goes where that is not to the end."""
        return self.name if self.rung is None else f"{self.name} to step {self.rung}"

    def to_rung(self, step: int) -> "Member":
        """The same run, as far as `step`: how far it goes is no part of what it is."""
        train = self.config.train.model_copy(update={"steps": step})
        return replace(self, config=self.config.model_copy(update={"train": train}), rung=step)

    @property
    def run(self) -> str:
        """The run's name."""
        return self.config.run_name


@dataclass(frozen=True, slots=True)
class Setting:
    """The members that differ in their seeds alone."""

    label: str
    changes: Changes
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a sweep is going to do; settings in the order in which they were asked for."""

    sweep: Sweep
    base: RunConfig
    settings: tuple[Setting, ...]

    @property
    def members(self) -> list[Member]:
        """All runs."""
        return [member for setting in self.settings for member in setting.members]


def make_plan(sweep: Sweep, base: RunConfig) -> Plan:
    """The plan of `sweep` over the configuration `base`.

    Raises `ConfigError` where a setting does not exist or has a value that it cannot have, in
    whichever member, where two members would be one run, and where there are too many.
    """
    for name, value in (
        ("run.name", base.run.name),
        ("train.resume_from_step", base.train.resume_from_step),
        ("train.more_steps", base.train.more_steps),
    ):
        if value is not None:
            raise ConfigError(
                f"{name} is {value!r}, which is of one run alone: leave it out, the runs of a "
                "sweep have the names that their settings give them, and all train to train.steps."
            )
    if any("train.more_steps" in names for names in _names(sweep)):
        raise ConfigError(
            "train.more_steps is of one run alone, and the runs of a sweep all train to "
            "train.steps: set that for all of them."
        )
    if sweep.seeds is not None and any(SEED in names for names in _names(sweep)):
        raise ConfigError(
            f"Both seeds and {SEED} are given, and they are the same setting: leave one out."
        )
    if base.run.promote_as is not None or any("run.promote_as" in names for names in _names(sweep)):
        raise ConfigError(
            "run.promote_as would let every run of a sweep be tried on the same test problems, and "
            "the best of many is promoted in part by luck: leave it out, and promote a run of the "
            "chosen setting with visual-r1 promote."
        )
    combinations = list(dict.fromkeys(_combinations(sweep)))
    seeds = list(dict.fromkeys(sweep.seeds or [])) or [None]
    count = len(combinations) * len(seeds)
    if count > sweep.max_members:
        raise ConfigError(
            f"The sweep {sweep.name!r} asks for {count} runs ({len(combinations)} combinations x "
            f"{len(seeds)} seeds), more than its max_members of {sweep.max_members}: raise that, "
            "or take values out."
        )
    plan = Plan(sweep, base, _settings(combinations, seeds, base))
    _require_runs_of_their_own(plan.members)
    return plan


class _Combination:
    """Changes that compare by what they hold: a value may be a list, which has no hash."""

    def __init__(self, changes: Mapping[str, Any]) -> None:
        self.changes: Changes = tuple(sorted(changes.items()))
        self._key = json.dumps(self.changes, default=str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Combination) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _names(sweep: Sweep) -> Iterator[Iterable[str]]:
    yield sweep.grid
    yield from sweep.combinations
    if sweep.random is not None:
        yield sweep.random.settings


def _combinations(sweep: Sweep) -> Iterator[_Combination]:
    """Of the grid the last name changes fastest, then the list, then the draws."""
    if sweep.grid:
        for values in itertools.product(*sweep.grid.values()):
            yield _Combination(dict(zip(sweep.grid, values, strict=True)))
    yield from map(_Combination, sweep.combinations)
    if sweep.random is not None:
        yield from map(_Combination, draw(sweep.random))
    if not (sweep.grid or sweep.combinations or sweep.random):
        yield _Combination({})


def draw(draws: RandomDraws) -> list[dict[str, Any]]:
    """The combinations, each a value for every setting."""
    return [
        {
            name: _drawn(rule, random.Random(stable_seed("sweep", draws.seed, name, number)))
            for name, rule in draws.settings.items()
        }
        for number in range(draws.count)
    ]


def _drawn(rule: Distribution, source: random.Random) -> Any:
    if rule.choice is not None:
        return rule.choice[source.randrange(len(rule.choice))]
    if rule.uniform is not None:
        low, high = rule.uniform
        value = low + (high - low) * source.random()
    else:
        assert rule.log_uniform is not None, "one of the three is given"
        low, high = rule.log_uniform
        value = math.exp(math.log(low) + math.log(high / low) * source.random())
    # Rounding must not leave the bounds.
    value = min(max(float(f"{value:.{_DIGITS}g}"), low), high)
    return round(value) if rule.integer else value


def _settings(
    combinations: Iterable[_Combination], seeds: Sequence[int | None], base: RunConfig
) -> tuple[Setting, ...]:
    """Those that differ in `train.seed` alone, which a grid may hold too, are one setting; a member
    that is there twice is there once."""
    by_changes: dict[str, list[Member]] = {}
    combinations = list(combinations)
    short = _short_names({name for one in combinations for name, _ in one.changes})
    for one in combinations:
        changes = tuple((name, value) for name, value in one.changes if name != SEED)
        label = ", ".join(f"{short[name]}={shown_value(value)}" for name, value in changes)
        members = by_changes.setdefault(json.dumps(changes, default=str), [])
        for seed in seeds:
            wanted = dict(one.changes) if seed is None else dict(one.changes) | {SEED: seed}
            config = lay_over(base, wanted, f"The setting {label or 'base'} of the sweep")
            if config not in [member.config for member in members]:
                members.append(Member(changes, config.train.seed, label or "base", config))
    return tuple(
        Setting(members[0].label, members[0].changes, tuple(members))
        for members in by_changes.values()
    )


def lay_over(base: RunConfig, changes: Mapping[str, Any], what: str) -> RunConfig:
    """`base` with dotted names set to values; raises `ConfigError`, which begins with `what`."""
    try:
        return with_start(require_reinforcement(laid_over(base, changes)))
    except ConfigError as error:
        raise ConfigError(f"{what} cannot be: {error}") from error


def _require_runs_of_their_own(members: Iterable[Member]) -> None:
    known: dict[str, Member] = {}
    for member in members:
        other = known.setdefault(member.run, member)
        if other is member:
            continue
        keys = differing_keys(
            other.config.model_dump(mode="json"), member.config.model_dump(mode="json")
        )
        differ = f"{', '.join(keys)} make no other run" if keys else "they are the same"
        raise ConfigError(
            f"{other.name!r} and {member.name!r} of the sweep would be one run, {member.run}: "
            f"{differ}. A sweep is over what makes a run what it is; set the rest for all of them."
        )


def _short_names(names: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted name where no other has the same, else the whole."""
    names = sorted(names)
    lasts = [name.rpartition(".")[2] for name in names]
    return {
        name: last if lasts.count(last) == 1 and last != "seed" else name
        for name, last in zip(names, lasts, strict=True)
    }


def shown_value(value: object) -> str:
    """A value as a label holds it: exact, and short where it can be."""
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return value if isinstance(value, str) else json.dumps(value, default=str)
