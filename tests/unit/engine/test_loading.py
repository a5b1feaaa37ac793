"""An engine that loads is waited for as long as it says that data moves."""

import os
import subprocess
from pathlib import Path

import pytest

from visual_r1.engine.launch import READY, StartingEngine
from visual_r1.engine.loading import LOADING, moved_bytes, saying_progress
from visual_r1.errors import EngineError


def starting(folder: Path, script: str) -> StartingEngine:
    """A process that says what an engine would."""
    log = folder / "engine.log"
    log.write_text("")
    theirs, ours = os.pipe()
    process = subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, stdin=theirs, start_new_session=True
    )
    os.close(theirs)
    return StartingEngine(process, os.fdopen(ours, "wb", buffering=0), "tml-x", log, 0)


def test_a_load_may_take_longer_than_an_engine_that_says_nothing(tmp_path: Path) -> None:
    says = f"for i in 1 2 3 4 5 6 7; do echo '{LOADING}'$i GB; sleep 0.5; done; "
    engine = starting(tmp_path, f"{says} echo '{READY}http://127.0.0.1:1'; read _")
    with engine.ready(within_s=2.5) as running:
        assert running.url == "http://127.0.0.1:1"


def test_a_load_that_hangs_is_given_up_and_says_how_far_it_came(tmp_path: Path) -> None:
    engine = starting(tmp_path, f"echo '{LOADING}3.1 GB moved'; read _")
    with pytest.raises(EngineError, match=r"downloaded nothing for 1 s \(3.1 GB moved\)"):
        engine.ready(within_s=1.0)


def test_an_engine_that_never_speaks(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="did not start within 1 s"):
        starting(tmp_path, "read _").ready(within_s=1.0)


def test_what_moves_is_said_and_what_does_not_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    # A log's line, a piece of a download, and nothing.
    amounts = iter([0, 100, 5_000_000, 5_000_100, 5_000_100])
    exhausted = [False]

    def moved() -> int:
        try:
            return next(amounts)
        except StopIteration:
            exhausted[0] = True
            return 5_000_100

    with saying_progress(moved, look_every_s=0.001):
        while not exhausted[0]:
            pass
    assert capsys.readouterr().out == f"{LOADING}5.0 MB moved\n"


def test_reading_a_file_counts(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(2_000_000))
    before = moved_bytes()
    (tmp_path / "weights").read_bytes()
    assert moved_bytes() - before >= 2_000_000
