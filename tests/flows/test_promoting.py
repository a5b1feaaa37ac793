"""The exit status of `visual-r1 promote` is what the model's file says, and what is promoted is
made known, also where the process was killed before.

As a program it promotes a checkpoint by force, and dies before that is made known.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import by_run
from tasks import outcome as outcome_of_flows
from tasks import promotion
from trials.programs import ROOT, clean_environment
from visual_r1.config import RunConfig
from visual_r1.exports.record import Export
from visual_r1.promotion import models


@pytest.mark.parametrize(("current", "status"), [("tinker://a", 0), ("tinker://b", 4), (None, 4)])
def test_a_server_that_was_lost_with_the_outcome_changes_no_status(
    current: str | None, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.model_validate({"preset": "quickstart", "output_dir": tmp_path})
    there = SimpleNamespace(sampler_path=current) if current else None
    monkeypatch.setattr(by_run, "config_of", lambda *_: config)
    monkeypatch.setattr(
        by_run, "named_checkpoint", lambda *_: SimpleNamespace(sampler_path="tinker://a")
    )
    monkeypatch.setattr(by_run, "settle_prefect", lambda _: None)
    monkeypatch.setattr(models, "Models", lambda *_: SimpleNamespace(current=lambda: there))
    # The flow has ended, and what it returned is lost: that is a warning and no error.
    monkeypatch.setattr(by_run, "run_as_command", lambda *_, **__: 0)
    assert by_run.promote(["a-run"]) == status


def promote_by_force(folder: Path, told: Any) -> dict[str, Any]:
    """A promotion of which evaluations and export are there; `told` is who is told of it."""
    exported = Export(4, 4, True, "tiny", "adapter", "tinker://a", "tinker://s", (), "2026-05-01")
    replaced: Any = promotion
    replaced._evidence = lambda *_, **__: None
    replaced.export = lambda *_: None
    replaced.read_export = lambda *_: exported
    replaced.record = SimpleNamespace(promoted=told)
    config = RunConfig.model_validate(
        {"preset": "quickstart", "output_dir": folder, "run": {"name": "a"}}
    )
    row: Any = SimpleNamespace(step=4, sampler_path="tinker://a")
    nothing: Any = None
    return promotion.promote_checkpoint(config, nothing, row, force=True, because="seen by eye")


def test_a_promotion_that_nobody_was_told_of_is_told_and_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_evidence", "export", "read_export", "record"):
        monkeypatch.setattr(promotion, name, getattr(promotion, name))  # put back at the end
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment)
    assert killed.returncode == 137
    there = models.Models(tmp_path, "quickstart")
    told: list[str] = []
    outcome = promote_by_force(tmp_path, lambda *said: told.append(said[3]))
    assert (outcome["promoted"], outcome["why"]) == (True, "seen by eye")
    [sentence] = told
    assert "number 1 is step 4 of a. seen by eye" in sentence
    assert there.before() == []
    outcome_of_flows.was_told()
    # Told of it, a person who decides so again is heard.
    promote_by_force(tmp_path, lambda *said: told.append(said[3]))
    outcome_of_flows.was_told()
    assert "number 2 is step 4 of a" in told[1]
    assert [one.number for one in there.before()] == [1]


if __name__ == "__main__":
    promote_by_force(Path(sys.argv[1]), lambda *_: os._exit(137))
