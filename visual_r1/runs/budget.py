"""What a run may cost: `limits.budget_usd` and `limits.budget_tokens`, and a run that ended by one.

A run ends at the checkpoint after which another chunk, with the evaluation at the end, would pass
its budget (`doctor.budget` foretells both). It ends as any run does: exported, evaluated, reported.
`budget.json` in its folder then holds how that was decided, so that whoever starts it again, also
after a kill in the middle of that evaluation, comes to the same end; with a higher budget it goes
on from the checkpoint. A budget is no part of what a run is.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from visual_r1.backend.endpoint import choose_kind
from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError
from visual_r1.prices import NO_PRICES, Prices, Tokens, prices_of
from visual_r1.storage import read_if_sound, write_json

BUDGET_NAME = "budget.json"

Setting = Literal["limits.budget_usd", "limits.budget_tokens"]


@dataclass(frozen=True, slots=True)
class Budget:
    """One of the limits, in US dollars or tokens."""

    setting: Setting
    limit: float
    prices: Prices = NO_PRICES

    def amount(self, tokens: Tokens) -> float:
        """What `tokens` take of it."""
        if self.setting == "limits.budget_tokens":
            return tokens.count
        cost = self.prices.cost(tokens)
        assert cost is not None, "`budgets_of` makes none without prices"
        return cost

    def spent(self, run_dir: Path, before: int | None = None) -> float:
        """What a run has taken of it, see `costs.payments`."""
        # Here and not above: who only reads how a run ended does without the SDK behind it.
        from visual_r1.runs.costs import tokens_of_run, usd_of_run

        if self.setting == "limits.budget_tokens":
            return tokens_of_run(run_dir, before).count
        return usd_of_run(run_dir, self.prices, before)


def budgets_of(config: RunConfig) -> Sequence[Budget]:
    """The budgets that are set and that something is taken of: on the embedded engine nothing is
    paid.

    Raises `ConfigError` where dollars are limited and the prices are not known.
    """
    limits, found = config.limits, list[Budget]()
    if limits.budget_usd is not None and (kind := choose_kind(config, os.environ)) != "embedded":
        prices = prices_of(config, kind)
        if not prices.known:
            raise ConfigError(
                f"limits.budget_usd is {shown('limits.budget_usd', limits.budget_usd)} and what "
                f"{config.model.name} costs is not known: set prices.prefill, prices.sample and "
                "prices.train, or limits.budget_tokens in its place."
            )
        found.append(Budget("limits.budget_usd", limits.budget_usd, prices))
    if limits.budget_tokens is not None:
        found.append(Budget("limits.budget_tokens", limits.budget_tokens))
    return found


def shown(setting: Setting, amount: float) -> str:
    """An amount of a budget as a reader sees it: `$31.20`, `12,300 tokens`."""
    if setting == "limits.budget_tokens":
        return f"{amount:,.0f} tokens"
    return f"${amount:,.2f}" if amount >= 0.1 or not amount else f"${amount:.2g}"


@dataclass(frozen=True, slots=True)
class BudgetEnd:
    """How a run ended by its budget: at the checkpoint of `step` of `steps`.

    `spent` was taken until then; `chunk` is what the next chunk would have taken, `final` the
    evaluation at the end. All are in what `setting` is in.
    """

    setting: Setting
    limit: float
    step: int
    steps: int
    spent: float
    chunk: float
    final: float

    def is_of(self, config: RunConfig) -> bool:
        """Whether it is the budget of `config` that ended the run: with another it goes on."""
        return getattr(config.limits, self.setting.removeprefix("limits.")) == self.limit

    @property
    def sentence(self) -> str:
        """What happened, and how the run goes on."""
        limit, spent, chunk, final = (
            shown(self.setting, amount)
            for amount in (self.limit, self.spent, self.chunk, self.final)
        )
        return (
            f"Ended by {self.setting} ({limit}) at the checkpoint of step {self.step} of "
            f"{self.steps}: {spent} were spent, another chunk would take about {chunk} and the "
            f"evaluation at the end {final}. With a higher budget the same command goes on."
        )


_STORED = TypeAdapter(BudgetEnd)


def note_budget_end(run_dir: Path, end: BudgetEnd | None) -> None:
    """Write down how the run ended; None forgets how it ended before."""
    if end is None:
        (run_dir / BUDGET_NAME).unlink(missing_ok=True)
    else:
        write_json(run_dir / BUDGET_NAME, asdict(end))


def read_budget_end(run_dir: Path, step: int) -> BudgetEnd | None:
    """How the run ended by its budget at the checkpoint of `step`; None where it did not.

    One that is damaged is none, with a warning: it is decided anew.
    """
    end = read_if_sound(run_dir / BUDGET_NAME, _STORED, "the budget is looked at anew")
    return end if end is not None and end.step == step else None
