"""What the flow of a sweep tells while its runs are trained."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tasks import sweeping
from visual_r1.config import RunConfig
from visual_r1.errors import BudgetReached
from visual_r1.sweeps.plan import make_plan
from visual_r1.sweeps.sweep import sweep_of


def test_money_that_is_spent_is_an_event_for_automations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"train.learning_rate": [1e-3, 2e-3]}
    sweep = sweep_of({"name": "rates", "grid": rates, "max_usd": 2.0}, "a test")
    plan = make_plan(sweep, RunConfig(preset="quickstart", output_dir=tmp_path))
    told: list[tuple[str, str, Mapping[str, Any]]] = []

    def spent(*_: object) -> None:
        raise BudgetReached("It was not begun.")

    monkeypatch.setattr(sweeping, "require_money_left", spent)
    monkeypatch.setattr(sweeping, "_engine_for", lambda _: nullcontext())
    monkeypatch.setattr(
        sweeping, "happened", lambda _, event, said, payload: told.append((event, said, payload))
    )
    members = [member for setting in plan.settings for member in setting.members]
    failed = sweeping.train_members(plan, members, pytest.fail, None)
    assert len(failed) == 2
    limit = {"sweep": "rates", "max_usd": 2.0}
    assert told == [("budget.reached", "It was not begun.", limit)] * 2
