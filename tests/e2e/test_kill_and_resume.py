"""Killed at random moments, training ends with the weights of a run that nobody disturbed."""

import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from trials.programs import Victim, Way, clean_environment, command, run_dir
from trials.run_outcome import Outcome, outcome_of
from trials.train_chunks import CHUNK_STEPS, STEPS

WAY: Way = "stale"  # a kill finds the next batch under way, and a part of this one learnt from
# A chunk prints its start, its steps, its end (the save begins), its checkpoint.
LINES_A_CHUNK = CHUNK_STEPS + 3


def outcome(folder: Path) -> Outcome:
    return outcome_of(run_dir(WAY, folder), folder / ".visual-r1/engine")


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(WAY, folder),
        env=clean_environment() | {"TINKER_TELEMETRY": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.strip()


def engine_of(process: "subprocess.Popen[str]") -> psutil.Process:
    children = psutil.Process(process.pid).children(recursive=True)
    (engine,) = [child for child in children if "visual_r1.engine" in child.cmdline()]
    return engine


def finish(folder: Path) -> list[str]:
    process = start(folder)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.splitlines()


def kill_after(folder: Path, victim: Victim, lines: int) -> tuple[int | None, str]:
    """Run until `lines` lines were printed after the first checkpoint known, then kill.

    The exit status and what went to stderr; None where the run was at its end before that.
    """
    process = start(folder)
    counting = False
    left = lines
    for line in lines_of(process):
        counting = counting or line.startswith("checkpoint") or line in resumed()
        left -= counting
        if left < 0:
            break
    else:
        process.communicate()
        return None, ""
    engine = engine_of(process)
    if victim in ("engine", "both"):
        engine.send_signal(signal.SIGKILL)
    if victim in ("training", "both"):
        process.kill()
    _, errors = process.communicate()
    engine.wait(timeout=60)  # killed, or ended by itself: nobody is left behind
    return process.returncode, errors


def resumed() -> set[str]:
    return {f"from step {step}" for step in range(1, STEPS + 1)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder)
    return outcome(folder)


def test_an_undisturbed_run_writes_down_each_step(undisturbed: Outcome) -> None:
    assert [row["step"] for row in undisturbed.metrics] == list(range(STEPS))
    assert all(row["updated"] for row in undisturbed.metrics)
    assert [step for step, _ in undisturbed.checkpoints] == [
        *range(CHUNK_STEPS, STEPS + 1, CHUNK_STEPS)
    ]
    per_step = [sum(row["step"] == step for row in undisturbed.rollouts) for step in range(STEPS)]
    assert per_step == [2 * 4] * STEPS
    assert [row["staleness"] for row in undisturbed.metrics] == [0, 1] * (STEPS // 2)
    read = {row["second_verdict"] for row in undisturbed.rollouts}
    assert read & {"right", "wrong"}, "some scans were read"


@pytest.mark.parametrize("seed", [0])
def test_killed_again_and_again_it_ends_the_same(
    undisturbed: Outcome, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    victims: list[Victim] = ["training", "both"]
    rng.shuffle(victims)
    for victim in victims:
        status, _ = kill_after(tmp_path, victim, rng.randrange(LINES_A_CHUNK))
        assert status is not None, "the run was over before it could be killed"
        assert status == -signal.SIGKILL
    # The engine alone: the training that is left opens a new session by itself.
    # (One that is killed right after a checkpoint is started again without a word.)
    status, errors = kill_after(tmp_path, "engine", rng.randrange(1, LINES_A_CHUNK))
    assert status == 0, errors
    assert errors.count("Recovering: training goes on from the last checkpoint.") == 1
    assert "Traceback" not in errors
    assert outcome(tmp_path).differing(undisturbed) == []
