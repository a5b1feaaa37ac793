"""What is left of a sweep will take, before anything is spent on it, and the limits on that."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from visual_r1.backend.backend import open_backend
from visual_r1.backend.endpoint import choose_kind
from visual_r1.config import RunConfig
from visual_r1.data.dataset import find_prepared
from visual_r1.doctor.estimates import PREPARE_SECONDS, START_SECONDS, Workload, workload
from visual_r1.doctor.evidence import Evidence, earlier_evidence, measured_step
from visual_r1.doctor.prompts import FirstRows, PromptSizes, first_rows, measure_prompts
from visual_r1.errors import ConfigError
from visual_r1.prices import Tokens, prices_of, total
from visual_r1.runs.costs import usd_of_run
from visual_r1.runs.validations import validated_steps
from visual_r1.sweeps.halving import work_left
from visual_r1.sweeps.members import baseline_key, is_trained, spent_usd, steps_left
from visual_r1.sweeps.plan import Plan
from visual_r1.wording import duration

MEMBER_SECONDS = 3.0
"""Of a run within a sweep, neither sampling nor training: its folders, saving, the report."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What `runs` runs that are not whole will take; each is begun or not.

    `usd` is by run, empty where prices are not known; `hours` None where nothing was timed. With
    `at_most` no answer was seen yet, and each is taken to be as long as it may be.
    """

    runs: int
    tokens: Tokens
    usd: Mapping[str, float]
    hours: float | None
    at_most: bool

    @property
    def sentence(self) -> str:
        """In words."""
        most = "at most " if self.at_most else "about "
        parts = [f"{most}{self.tokens.count / 1e6:.2f} million tokens"]
        parts += [f"{most}${sum(self.usd.values()):,.2f}"] if self.usd else []
        parts += [f"about {duration(3600 * self.hours)}"] if self.hours is not None else []
        return f"{self.runs} runs to train: {', '.join(parts)}."


def forecast(plan: Plan, at_once: int) -> Forecast | None:
    """What the members that are not whole will take, `at_once` of them at a time.

    None where none is left. On the embedded engine one real step is run where no earlier run says
    how fast it is. Raises `DataError` or `ModelError` where problems or model are not there.
    """
    left = work_left(plan)
    if not left:
        return None
    known = dict[str, Known]()
    asked = {baseline_key(one.config) for one in plan.members if is_trained(one.config)}
    work, usd, seconds = list[Tokens](), dict[str, float](), list[float | None]()
    for member in left:
        config, key = member.config, alike(member.config)
        if key not in known:
            known[key] = _look(config)
        evaluations = 0
        if member.rung is None:
            evaluations = 1 if baseline_key(config) in asked else 2
            asked.add(baseline_key(config))
        tokens, took = ahead(config, known[key], *steps_left(config), evaluations)
        cost = prices_of(config, choose_kind(config, os.environ)).cost(tokens)
        usd |= {} if cost is None else {member.run: within_its_budget(config, cost)}
        work.append(tokens)
        seconds.append(took)
    hours = None
    if None not in seconds:
        working = sum(took + MEMBER_SECONDS for took in seconds if took is not None) / at_once
        rows = sum(one.rows_to_prepare for one in known.values())
        hours = (START_SECONDS + PREPARE_SECONDS * rows + working) / 3600
    at_most = any(
        one.evidence is None or one.evidence.response_tokens is None for one in known.values()
    )
    return Forecast(len(left), total(work), usd, hours, at_most)


def within_its_budget(config: RunConfig, cost: float) -> float:
    """What a run will cost that ends by its own budget before."""
    limit = config.limits.budget_usd
    return cost if limit is None else min(cost, max(limit - usd_of_run(config.run_dir), 0.0))


@dataclass(frozen=True, slots=True)
class Known:
    """What runs of one model, data, prompt and sampling have in common."""

    first: FirstRows
    prompts: PromptSizes
    evidence: Evidence | None
    rows_to_prepare: int


def alike(config: RunConfig) -> str:
    """Runs of which this is the same have `Known` in common."""
    parts = {"model", "data", "prompt", "sampling", "second_pass", "output_dir"}
    return json.dumps(config.model_dump(mode="json", include=parts), sort_keys=True)


def _look(config: RunConfig) -> Known:
    first = first_rows(config)
    prompts = measure_prompts(config, first.problems)
    evidence = earlier_evidence(config)
    if evidence is None and choose_kind(config, os.environ) == "embedded":
        with open_backend(config) as backend:
            evidence = measured_step(config, backend, first.problems)
    is_prepared = find_prepared(config.data, config.output_dir) is not None
    return Known(first, prompts, evidence, 0 if is_prepared else first.rows)


def ahead(
    config: RunConfig, known: Known, steps: int, validations: int, evaluations: int
) -> tuple[Tokens, float | None]:
    """Tokens and seconds of so many steps, validations and evaluations on the test problems."""
    one = config.model_copy(update={"train": config.train.model_copy(update={"steps": 1})})

    def asked(test_rows: int, validation_rows: int) -> Workload:
        return workload(one, known.prompts, known.evidence, test_rows, validation_rows)

    step = asked(0, 0)
    evaluated, validated = asked(known.first.test_rows, 0), asked(0, known.first.validation_rows)
    often = len(validated_steps(one)) or 1
    tokens = total(
        [
            step.tokens * (steps - evaluations / 2 - validations / often),
            evaluated.tokens * (evaluations / 2),
            validated.tokens * (validations / often),
        ]
    )
    rate = known.evidence.sample_rate if known.evidence else None
    if not rate or step.step_seconds is None:
        return tokens, None
    beside = tokens.sample - steps * step.tokens.sample
    return tokens, steps * step.step_seconds + beside / rate


def require_within_limits(plan: Plan, foretold: Forecast | None) -> None:
    """Raise `ConfigError` where the sweep would pass `max_usd` or `max_hours`, which it names."""
    sweep, members = plan.sweep, plan.members
    paid = [one for one in members if choose_kind(one.config, os.environ) != "embedded"]
    if sweep.max_usd is not None and paid:
        prices = prices_of(paid[0].config, choose_kind(paid[0].config, os.environ))
        if not prices.known:
            raise ConfigError(
                f"The sweep {sweep.name!r} has a limit of ${sweep.max_usd:,.2f} and no prices: set "
                "prices.prefill, prices.sample and prices.train, or leave max_usd out."
            )
    if foretold is None:
        return
    # What is foretold at most may well be far less; `Money` then keeps the limit on the way.
    usd = sum(foretold.usd.values()) + spent_usd(plan)
    if sweep.max_usd is not None and usd > sweep.max_usd and not foretold.at_most:
        raise ConfigError(
            f"The sweep {sweep.name!r} would cost about ${usd:,.2f} in all, more than its max_usd "
            f"of ${sweep.max_usd:,.2f}: raise that, or ask for less. {foretold.sentence}"
        )
    if (
        sweep.max_hours is not None
        and foretold.hours is not None
        and foretold.hours > sweep.max_hours
    ):
        raise ConfigError(
            f"The sweep {sweep.name!r} would take about {duration(3600 * foretold.hours)}, more "
            f"than its max_hours of {sweep.max_hours:g}: raise that, or ask for less. "
            f"{foretold.sentence}"
        )
