"""The exit status of `visual-r1 promote` is what the model's file says."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import by_run
from visual_r1.config import RunConfig
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
