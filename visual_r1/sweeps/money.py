"""The money of a sweep, `max_usd`: which run may begin, by what those before it have cost.

    spent + kept for those that run + what this one will take > max_usd      it does not begin

What a run will take is foretold when it begins, from its checkpoint to where it goes, by the
answers that were seen until then; where runs of the sweep took more than would be foretold of them,
as much more. As long as no answer was seen, what is foretold is the most that it can be: such a run
begins where no other is at work, and is the evidence for the next ones.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from visual_r1.backend.endpoint import choose_kind
from visual_r1.config import RunConfig
from visual_r1.doctor.evidence import Evidence, earlier_evidence
from visual_r1.doctor.prompts import FirstRows, PromptSizes, first_rows, measure_prompts
from visual_r1.errors import BudgetReached
from visual_r1.evaluation.metrics import read_reports
from visual_r1.prices import Payment, Prices, prices_of
from visual_r1.printing import open_logger
from visual_r1.report.summary import BASELINE, FINAL
from visual_r1.runs.journal import read_metrics
from visual_r1.runs.validations import Validations
from visual_r1.sweeps.forecast import Known, ahead, alike, within_its_budget
from visual_r1.sweeps.members import baseline_key, spent_usd, steps_left
from visual_r1.sweeps.plan import Member, Plan

logger = open_logger(__name__)

LOOK_EVERY_S = 1.0
ANEW_EVERY_S = 60.0
"""So often it is looked anew whether a run that waits may begin, beside whenever another ends."""


class Money:
    """What is left of `max_usd`, and the runs that it is kept for; used by several threads."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._running: dict[str, Member] = {}
        self._changed = threading.Condition()
        self._looked_at: dict[str, tuple[FirstRows, PromptSizes]] = {}

    @contextmanager
    def kept_for(self, member: Member, watch: Callable[[], None]) -> Generator[None]:
        """For the block the member runs, and what it will take is kept for it.

        Where it would pass the limit with what is kept for others it waits for them, and calls
        `watch` meanwhile, which may raise to end that. Raises `BudgetReached` where it would pass
        the limit without them.
        """
        if self._plan.sweep.max_usd is None:
            yield
            return
        with self._changed:
            waits = False
            while not self._fits(member):
                if not waits:
                    logger.warning(
                        "%s waits: with what the runs at work will take it would pass max_usd.",
                        member.title,
                    )
                waits = True
                self._wait(watch)
            self._running[member.run] = member
        try:
            yield
        finally:
            with self._changed:
                del self._running[member.run]
                self._changed.notify_all()

    def _wait(self, watch: Callable[[], None]) -> None:
        anew = time.monotonic() + ANEW_EVERY_S
        while time.monotonic() < anew:
            watch()
            if self._changed.wait(LOOK_EVERY_S):
                return

    def _fits(self, member: Member) -> bool:
        limit, spent = self._plan.sweep.max_usd, spent_usd(self._plan)
        assert limit is not None, "else nobody asks"
        needs, at_most = self._left_to_take(member)
        if spent >= limit > 0 or (not at_most and spent + needs > limit):
            foretold = f", and it would take about ${needs:,.2f}" if needs and not at_most else ""
            raise BudgetReached(
                f"It was not begun: the sweep has spent ${spent:,.2f} of its max_usd of "
                f"${limit:,.2f}{foretold}. With a higher limit the same command goes on."
            )
        if not self._running:
            return True
        kept = math.fsum(self._left_to_take(one)[0] for one in self._running.values())
        return spent + kept + needs <= limit

    def _left_to_take(self, member: Member) -> tuple[float, bool]:
        """US dollars, and whether they are the most that it can be; 0 where nothing is paid."""
        config = member.config
        prices = prices_of(config, choose_kind(config, os.environ))
        if not prices.known:
            return 0.0, False
        known = self._known(config)
        evaluations = 0
        if member.rung is None:
            evaluations = 1 if baseline_key(config) in self._asked() else 2
        steps, validations = steps_left(config)
        at_most = known.evidence is None or known.evidence.response_tokens is None
        cost = 0.0
        # Apart: how many groups a step samples says nothing of what an evaluation takes.
        for work in ((steps, 0, 0), (0, validations, evaluations)):
            part = prices.cost(ahead(config, known, *work)[0])
            assert part is not None, "the prices are known"
            if not at_most:
                part *= self._taken_over_foretold(known, config, prices, trained=work[0] > 0)
            cost += part
        return within_its_budget(config, cost), at_most

    def _known(self, config: RunConfig) -> Known:
        kind = alike(config)
        if kind not in self._looked_at:
            first = first_rows(config)
            self._looked_at[kind] = first, measure_prompts(config, first.problems)
        return Known(*self._looked_at[kind], self._evidence(config), 0)

    def _evidence(self, config: RunConfig) -> Evidence | None:
        """Of its kind; else of any other run of the sweep, which is better than none."""
        found = earlier_evidence(config)
        if found is None or found.response_tokens is None:
            others = (earlier_evidence(other.config) for other in self._plan.members)
            seen = (one for one in others if one is not None and one.response_tokens is not None)
            found = next(seen, found)
        return found

    def _asked(self) -> set[str]:
        """The baselines that are there."""
        return {
            baseline_key(one.config)
            for one in self._plan.members
            if BASELINE in read_reports(one.config.run_dir)
        }

    def _taken_over_foretold(
        self, known: Known, config: RunConfig, prices: Prices, *, trained: bool
    ) -> float:
        """The most that a run of this kind took, over what would now be foretold of that, and 1 at
        least: by its steps where it is of what is `trained`, else by what else was asked."""
        found = [1.0]
        for other in (member.config for member in self._plan.members):
            if alike(other) != alike(config):
                continue
            if trained:
                paid = [Payment.of_step(row) for row in read_metrics(other.run_dir)]
                work = len(paid), 0, 0
            else:
                reports = read_reports(other.run_dir)
                answered = [
                    Payment.of(reports[name].spending)
                    for name in (BASELINE, FINAL)
                    if name in reports
                ]
                answered = [one for one in answered if one.tokens.count]  # else another run's
                validated = list(map(Payment.of, Validations(other.run_dir).rows()))
                paid, work = [*answered, *validated], (0, len(validated), len(answered))
            foretold = prices.cost(ahead(other, known, *work)[0])
            if foretold:
                found.append(_usd(paid, prices) / foretold)
        return max(found)


def _usd(paid: Iterable[Payment], prices: Prices) -> float:
    """In all; those without a cost at these prices."""
    return math.fsum(
        (prices.cost(one.tokens) or 0.0) if one.usd is None else one.usd for one in paid
    )
