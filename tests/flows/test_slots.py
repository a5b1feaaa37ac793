"""Who comes second waits, says for whom, and goes on when that has ended, in whatever way."""

import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from filelock import FileLock

from visual_r1.config import RunConfig
from visual_r1.errors import StorageError

HOLDS = """
import sys
from pathlib import Path
from tasks.slots import its_turn
from visual_r1.config import RunConfig

with its_turn(RunConfig.model_validate({"preset": "quickstart", "output_dir": sys.argv[1]})):
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


@pytest.mark.parametrize("end", ["is let go", "is killed"])
def test_a_home_is_one_runs_at_a_time(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import slots
    from tasks.slots import its_turn

    said: list[str] = []
    monkeypatch.setattr(slots.logger, "handle", lambda record: said.append(record.getMessage()))
    config = RunConfig.model_validate(
        {"preset": "quickstart", "output_dir": tmp_path, "run": {"name": "second"}}
    )
    has_it = threading.Event()

    def run() -> None:
        with its_turn(config), its_turn(config):  # as a command and its flow, or a sweep, have it
            has_it.set()

    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"taken\n"
        thread = threading.Thread(target=run)
        thread.start()
        assert not has_it.wait(1.5)
        home = tmp_path / ".visual-r1" / "engine"
        (waits,) = said
        assert waits.startswith(f"Waits for the engine's home {home}, which run quickstart-")
        assert f"(pid {other.pid}) uses" in waits
        if end == "is killed":
            other.kill()
        else:
            other.stdin.close()
        assert has_it.wait(10)
        thread.join()
        # And it lets go of it: another one has it at once.
        has_it.clear()
        run()
        assert has_it.is_set()


def test_a_home_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    from tasks.slots import its_turn

    (tmp_path / ".visual-r1").write_text("a file where a folder should be")
    config = RunConfig.model_validate({"preset": "quickstart", "output_dir": tmp_path})
    with pytest.raises(StorageError, match="engine_home"), its_turn(config):
        pass


def with_limit(
    monkeypatch: pytest.MonkeyPatch, used: int, slot: Any
) -> tuple[list[str], list[bool]]:
    """What is said, and whether it waits, with a server of Prefect's that gives this slot."""
    from tasks import slots

    said, waiting = list[str](), list[bool]()
    monkeypatch.setattr(slots.logger, "handle", lambda record: said.append(record.getMessage()))
    monkeypatch.setattr(slots, "waits", waiting.append)
    monkeypatch.setattr(slots, "prefect_server", lambda: "http://127.0.0.1:1/api")
    monkeypatch.setattr(slots, "_limit_of", lambda _: SimpleNamespace(active_slots=used, limit=1))
    monkeypatch.setattr(slots, "concurrency", slot)
    monkeypatch.setenv("TINKER_API_KEY", "tml-not-a-real-one")
    return said, waiting


def test_a_server_that_is_gone_when_a_slot_is_given_back_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.slots import its_turn

    @contextmanager
    def slot(*_: object, **__: object) -> Generator[None]:
        yield
        raise httpx.ConnectError("refused")

    said, _ = with_limit(monkeypatch, 0, slot)
    config = RunConfig.model_validate({"preset": "geometry3k", "output_dir": tmp_path})
    for _ in range(2):  # and it can be taken again
        with its_turn(config):
            pass
    assert said == ["The slot of this key is free within 60 s (ConnectError)."] * 2


def test_a_server_that_goes_while_it_is_waited_for_ends_the_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.slots import its_turn

    @contextmanager
    def slot(*_: object, **__: object) -> Generator[None]:
        raise httpx.ConnectError("refused")
        yield

    said, waiting = with_limit(monkeypatch, 1, slot)
    config = RunConfig.model_validate({"preset": "geometry3k", "output_dir": tmp_path})
    with its_turn(config):
        assert waiting == [True, False]
    assert said[-1] == "Nobody counts the runs of this key (ConnectError)."


@pytest.mark.parametrize("used", [0, 1])
def test_whatever_prefect_raises_of_a_slot_ends_no_run(
    used: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.slots import its_turn

    class NotAcquired(Exception):  # Prefect's own is no more than that
        pass

    @contextmanager
    def slot(*_: object, **__: object) -> Generator[None]:
        raise NotAcquired("500")
        yield

    said, waiting = with_limit(monkeypatch, used, slot)
    config = RunConfig.model_validate({"preset": "geometry3k", "output_dir": tmp_path})
    with its_turn(config):
        assert waiting == [True, False] * used
    assert said[-1] == "Nobody counts the runs of this key (NotAcquired)."
    if used:
        assert "`prefect gcl update tinker-key-" in said[0]
        assert "--active-slots 0`" in said[0]


def test_who_waits_for_one_home_keeps_nobody_from_another(tmp_path: Path) -> None:
    from tasks.slots import its_turn

    def of(home: str) -> RunConfig:
        return RunConfig.model_validate({"preset": "quickstart", "output_dir": tmp_path / home})

    waits_for, has_it = of("taken"), threading.Event()

    def wait() -> None:
        with its_turn(waits_for):
            has_it.set()

    def come_and_go() -> None:
        with its_turn(of("free")):
            pass

    home = tmp_path / "taken" / ".visual-r1" / "engine"
    home.mkdir(parents=True)
    with FileLock(home / "run.lock"):
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        assert not has_it.wait(1.0)
        other = threading.Thread(target=come_and_go, daemon=True)
        other.start()
        other.join(10)
        assert not other.is_alive()
    waiting.join(10)
    assert has_it.is_set()


def test_a_signal_that_another_thread_heard_ends_the_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import interruption
    from tasks.slots import its_turn

    config = RunConfig.model_validate({"preset": "quickstart", "output_dir": tmp_path})
    home = tmp_path / ".visual-r1" / "engine"
    home.mkdir(parents=True)
    with FileLock(home / "run.lock"):
        monkeypatch.setattr(interruption, "_heard", [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt), its_turn(config):
            pass
