"""What the flow of a sweep tells while its runs are trained."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from flows import sweep_flow
from tasks import sweeping
from visual_r1.config import RunConfig
from visual_r1.errors import BudgetReached, ConfigError, RunError
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


def test_a_rung_looks_at_the_checkpoint_that_its_run_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later nobody would: the run has checkpoints of its own by then."""

    def gone(*_: object) -> None:
        raise RunError("It has gone.")

    for name in ("open_run_folder", "open_backend"):
        monkeypatch.setattr(sweep_flow, name, lambda _: nullcontext())
    monkeypatch.setattr(sweep_flow, "prepare", lambda _: None)
    monkeypatch.setattr(sweep_flow, "settle_labels", lambda *_: None)
    monkeypatch.setattr(sweep_flow, "settle_start", gone)
    with pytest.raises(RunError, match="It has gone"):
        sweep_flow.train_to_rung.fn(RunConfig(preset="quickstart", output_dir=tmp_path))


def test_cold_starts_are_no_members_of_a_sweep(tmp_path: Path) -> None:
    """Before a rung learns responses and the end refuses the run."""
    sections = {"output_dir": tmp_path, "sft": {"responses": "meta.solution"}}
    config = RunConfig.model_validate({"preset": "quickstart", **sections})
    sweep = {"name": "rates", "grid": {"train.learning_rate": [1e-3, 2e-3]}}
    with pytest.raises(ConfigError, match="makes this a supervised run"):
        sweep_flow.sweep.fn(sweep=sweep, config=config)
    assert not (tmp_path / "runs").exists()
