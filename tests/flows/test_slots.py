"""Who comes second waits, says for whom, and goes on when that has ended, in whatever way."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

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
