"""What Prefect tries again: what the network did, never what a user wrote."""

import asyncio
import logging
from pathlib import Path

import pytest

from visual_r1.errors import (
    BackendError,
    ConfigError,
    DataError,
    RunError,
    StorageError,
)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))


def retried(error: Exception, run_count: int = 1) -> bool:
    from prefect import task
    from prefect.client.schemas.objects import TaskRun
    from prefect.states import Failed

    from tasks.tasks import worth_retrying

    @task(name="prepare", retries=3, retry_delay_seconds=[2, 30, 300])
    def work() -> None: ...

    run = TaskRun(task_key="work", dynamic_key="0", run_count=run_count)
    return asyncio.run(worth_retrying(work, run, Failed(data=error)))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (BackendError("The session was lost."), False),  # is for Backend.recoveries
        (ConnectionResetError("gone"), True),
        (TimeoutError("late"), True),
        (ConfigError("No such loss."), False),
        (DataError("No such source."), False),
        (RunError("In use."), False),
        (StorageError("The disk is full."), False),
        (KeyError("a bug"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_may_be_different_the_second_time(error: Exception, again: bool) -> None:
    assert retried(error) is again


def test_a_retry_is_announced_with_its_pause(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "visual_r1"):
        retried(ConnectionResetError("The hub hung up."), run_count=2)
        retried(ConfigError("No such loss."))
    assert caplog.messages == ["prepare failed: The hub hung up. Trying again in 30 s."]
