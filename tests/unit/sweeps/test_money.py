"""Which runs of a sweep begin within `max_usd`, by what others of it have cost."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up import predictions, problems, write_evaluation, write_validation

from visual_r1.config import RunConfig
from visual_r1.errors import BudgetReached
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.sweeps import money as money_of_sweep
from visual_r1.sweeps.forecast import forecast, require_within_limits
from visual_r1.sweeps.members import spent_usd
from visual_r1.sweeps.money import Money
from visual_r1.sweeps.plan import Member, Plan, make_plan
from visual_r1.sweeps.sweep import Sweep

STEPS, RUNG, RATES = 8, 4, [3e-4, 6e-4, 9e-4]


def plan_of(folder: Path, max_usd: float | None = None, **more: Any) -> Plan:
    """Runs on a remote server with prices; no server is asked."""
    base = {
        "preset": "quickstart",
        "output_dir": str(folder),
        "train": {"steps": STEPS, "chunk_steps": 2},
        "validation": {"every": 1},
        "backend": {"server": "remote", "base_url": "http://127.0.0.1:9"},
        "prices": {"prefill": 1.0, "sample": 3.0, "train": 3.0},
    }
    sweep = {"name": "tried", "grid": {"train.learning_rate": RATES}, "max_usd": max_usd} | more
    return make_plan(Sweep.model_validate(sweep), RunConfig.model_validate(base))


def spend(member: Member, steps: int, usd: float, *, evaluated: bool = False) -> None:
    """The member's run has made so many steps and cost `usd`, with `evaluated` its baseline too."""
    config = member.config
    with open_run_folder(config) as run_dir:
        if evaluated:
            asked = problems(8)
            folder = run_dir / "evaluations/baseline"
            write_evaluation(folder, asked, predictions(asked, 0.6, seed=0))
        rows = [
            {
                "step": step,
                "updated": True,
                "response_tokens_mean": 24.0,
                "truncated_share": 0.0,
                "seconds_sample": 1.0,
                "seconds_train": 1.0,
                "tokens_prefill": 1000,
                "tokens_sampled": 1000,
                "tokens_trained": 1000,
                "cost_usd": usd / steps,
            }
            for step in range(steps)
        ]
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        Ledger(run_dir).append(
            LedgerRow(
                step=steps,
                state_path="tinker://a/weights/s",
                sampler_path="tinker://a/sampler_weights/s",
                expires_at=None,
                config_digest=config.digest(),
                dataset_digest="0",
                backend="remote",
                created_at="2026-01-01T00:00:00+00:00",
                updates=steps,
            )
        )


def refused(money: Money, member: Member) -> str:
    """Why the member does not begin; empty where it does, and has ended at once."""

    def watch() -> None:
        pytest.fail("nothing is at work that could be waited for")

    try:
        with money.kept_for(member, watch):
            return ""
    except BudgetReached as error:
        return str(error)


@pytest.mark.parametrize("winner", [0, 2])
def test_a_sweep_that_fits_does_not_refuse_its_own_winner(tmp_path: Path, winner: int) -> None:
    """What was foretold before the rung is not added to what the rung has spent; and a winner that
    was not first in the file is foretold at what is left to do, too."""
    more: dict[str, Any] = {"halving": {"steps": [RUNG], "eta": 3}}
    spend(plan_of(tmp_path / "before").members[0], 2, 0.0001, evaluated=True)
    known = tmp_path / "before" / "runs"
    known.rename(tmp_path / "runs")
    (tmp_path / "runs" / plan_of(tmp_path).members[0].run).rename(tmp_path / "runs" / "earlier")
    foretold = forecast(plan_of(tmp_path, **more), 1)
    assert foretold is not None
    assert not foretold.at_most
    first, rung, _ = foretold.usd.values()
    assert first > rung
    limit = sum(foretold.usd.values()) * 1.05  # a rung is more than that
    assert rung > limit * 0.1
    plan = plan_of(tmp_path, limit, **more)
    require_within_limits(plan, foretold)
    for member in plan.members:
        spend(member, RUNG, rung)
        for step in (0, 2, RUNG):
            write_validation(member.config.run_dir, step, 0.5)
    assert spent_usd(plan) == pytest.approx(3 * rung)
    assert refused(Money(plan), plan.members[winner]) == ""
    # What is left of it is more than what a rung takes: with that alone it would pass the limit.
    short = plan_of(tmp_path, 3 * rung + (first - rung) * 0.5, **more)
    assert "it would take about" in refused(Money(short), short.members[winner])


def test_a_run_that_took_more_than_was_foretold_is_evidence_for_the_next(tmp_path: Path) -> None:
    """Before it nothing was known of the answers, so it began whatever it may cost."""
    plan = plan_of(tmp_path, 10.0)
    foretold = forecast(plan, 1)
    assert foretold is not None
    assert foretold.at_most
    require_within_limits(plan, foretold)
    money = Money(plan)
    first, second, _ = plan.members
    assert refused(money, first) == ""
    spend(first, STEPS, 9.0, evaluated=True)
    assert "spent $9.00 of its max_usd of $10.00, and it would" in refused(money, second)
    enough = plan_of(tmp_path, 1000.0)
    assert refused(Money(enough), enough.members[1]) == ""


def test_a_run_is_taken_up_to_its_own_budget(tmp_path: Path) -> None:
    spend(plan_of(tmp_path, seeds=[7], grid={}).members[0], STEPS, 6.0, evaluated=True)
    foretold = forecast(plan_of(tmp_path), 1)
    assert foretold is not None
    assert not foretold.at_most
    limit = max(foretold.usd.values()) / 2
    without = plan_of(tmp_path, limit)
    assert "and it would take about" in refused(Money(without), without.members[0])
    own = {"limits.budget_usd": limit / 2}
    within = plan_of(tmp_path, limit, combinations=[own], grid={})
    assert refused(Money(within), within.members[0]) == ""


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("at_most", [True, False])
def test_what_those_at_work_will_take_is_kept_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_most: bool
) -> None:
    """A run that fits without them waits until they end, and is refused where it then does not."""
    monkeypatch.setattr(money_of_sweep, "LOOK_EVERY_S", 0.02)
    if not at_most:
        spend(plan_of(tmp_path, grid={}, seeds=[7]).members[0], STEPS, 6.0, evaluated=True)
        # One of another sweep: it is evidence of answers, and none of what runs of this one take.
    foretold = forecast(plan_of(tmp_path), 1)
    assert foretold is not None
    assert foretold.at_most == at_most
    needs = max(foretold.usd.values())
    plan = plan_of(tmp_path, needs * 1.5)
    money, (first, second, third) = Money(plan), plan.members
    looked, begun, over = threading.Semaphore(0), threading.Event(), threading.Event()

    def wait_and_begin() -> None:
        with money.kept_for(second, looked.release):
            begun.set()
            over.wait(60)

    with money.kept_for(first, begun.set):
        waiting = in_thread(wait_and_begin)
        for _ in range(3):
            assert looked.acquire(timeout=60)
        assert not begun.is_set()
    # The first has cost nothing, so the second begins.
    assert begun.wait(60)

    def second_ends() -> None:
        if not over.is_set():
            spend(second, STEPS, needs * 1.4)
            over.set()

    with pytest.raises(BudgetReached) as raised, money.kept_for(third, second_ends):
        pass
    waiting.join(60)
    assert f"spent ${needs * 1.4:,.2f} of its max_usd" in str(raised.value)


def test_what_waits_can_be_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(money_of_sweep, "LOOK_EVERY_S", 0.02)
    foretold = forecast(plan_of(tmp_path), 1)
    assert foretold is not None
    plan = plan_of(tmp_path, max(foretold.usd.values()) * 1.5)
    money = Money(plan)

    def ended() -> None:
        raise InterruptedError

    with (
        money.kept_for(plan.members[0], ended),
        pytest.raises(InterruptedError),
        money.kept_for(plan.members[1], ended),
    ):
        pytest.fail("it would pass the limit")


def test_without_a_limit_nothing_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[RunConfig] = []
    first_rows = money_of_sweep.first_rows

    def look(config: RunConfig) -> Any:
        looked.append(config)
        return first_rows(config)

    monkeypatch.setattr(money_of_sweep, "first_rows", look)
    for limit, times in ((None, 0), (1000.0, 1)):
        plan = plan_of(tmp_path, limit)
        assert refused(Money(plan), plan.members[0]) == ""
        assert len(looked) == times
