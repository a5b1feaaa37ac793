"""Successive halving: the worse settings stop early, by validation.

At each rung every setting that is left has trained so many steps; of n settings the best
max(1, floor(n / eta)) go on, by the mean accuracy of their seeds on the validation problems (of
equals, the one that was asked for first). They go on from their checkpoints: a run does not know
that it was looked at. The decision is worked out anew from the runs' validation rows at each start,
so it is the same whatever was killed; where values join the sweep later, it is made anew with them.

References
    Jamieson and Talwalkar (2016), Non-stochastic best arm identification and hyperparameter
        optimization. AISTATS.
    Li et al. (2018), Hyperband: a novel bandit-based approach to hyperparameter optimization.
        JMLR 18.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from visual_r1.errors import ConfigError
from visual_r1.sweeps.members import is_done, validation_at
from visual_r1.sweeps.plan import Member, Plan, Setting


def rungs(plan: Plan) -> list[int]:
    """The rungs before the end, in steps; none without halving.

    Raises `ConfigError` where a run would not be validated at one of them, or end before it.
    """
    halving = plan.sweep.halving
    if halving is None:
        return []
    for member in plan.members:
        train, every = member.config.train, member.config.validation.every
        if not every:
            raise ConfigError(
                f"The sweep {plan.sweep.name!r} halves by validation, and validation.every is 0 "
                f"in {member.name}: set it to 1, or leave halving out."
            )
        unit = every * train.chunk_steps
        for step in halving.steps:
            if step >= train.steps and step != halving.steps[-1]:
                raise ConfigError(
                    f"The rung {step} of the sweep {plan.sweep.name!r} is not before "
                    f"train.steps, {train.steps}."
                )
            if step < train.steps and step % unit:
                raise ConfigError(
                    f"The rung {step} of the sweep {plan.sweep.name!r} is at no validated "
                    f"checkpoint of {member.name}: those are each {unit} steps (validation.every "
                    f"{every} x train.chunk_steps {train.chunk_steps})."
                )
    last = min(member.config.train.steps for member in plan.members)
    return [step for step in halving.steps if step < last]


def count_after(count: int, eta: float) -> int:
    """How many of so many settings go on."""
    return max(1, math.floor(count / eta)) if count else 0


def go_on(settings: Sequence[Setting], step: int, eta: float) -> tuple[Setting, ...]:
    """Those of `settings` that go on from the rung `step`, in the order of the plan.

    A setting with a run that was not validated there is not among them.
    """
    scores = {setting.label: score(setting, step) for setting in settings}
    scored = [setting for setting in settings if scores[setting.label] is not None]
    ranked = sorted(scored, key=lambda setting: -(scores[setting.label] or 0.0))  # stable
    kept = {setting.label for setting in ranked[: count_after(len(settings), eta)]}
    return tuple(setting for setting in settings if setting.label in kept)


def score(setting: Setting, step: int) -> float | None:
    """The mean validation accuracy of its seeds at `step`; None where one has none."""
    found = [validation_at(member.config, step) for member in setting.members]
    known = [accuracy for accuracy in found if accuracy is not None]
    return fmean(known) if len(known) == len(found) else None


def steps_of(plan: Plan) -> Mapping[str, int]:
    """By label, how many steps each setting trains: as decided where all were validated at a rung,
    beyond that as if the first ones won."""
    left, wanted = tuple(plan.settings), dict[str, int]()
    for step in rungs(plan):
        wanted |= {setting.label: step for setting in left}
        assert plan.sweep.halving is not None, "else there are no rungs"
        if all(score(setting, step) is not None for setting in left):
            left = go_on(left, step, plan.sweep.halving.eta)
        else:
            left = left[: count_after(len(left), plan.sweep.halving.eta)]
    return wanted | {setting.label: setting.members[0].config.train.steps for setting in left}


def work_left(plan: Plan) -> list[Member]:
    """The members with something to do, each to where it goes by `steps_of`."""
    steps = steps_of(plan)
    targets = [
        member
        if steps[member.label] >= member.config.train.steps
        else member.to_rung(steps[member.label])
        for member in plan.members
    ]
    return [member for member in targets if not is_done(member)]
