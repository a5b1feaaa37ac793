"""A pause is told, whenever the process is killed: until somebody was told, a start pauses again.

As a program it kills a flow that an alarm pauses at one line after the other of the files that the
pause passes through, and starts it again. The flow is one without Prefect's server: its page is
that of `flows.train_flow`, and what a chunk costs is a row of the ledger.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from trials.programs import ROOT, clean_environment

PASSES = (
    "visual_r1/runs/alarms.py", "visual_r1/runs/process.py",
    "tasks/alarms.py", "tasks/outcome.py", "flows/command.py",
)  # fmt: skip
CHUNK, PAUSES_AT, STEPS = 5, 15, 20
PAUSED, KILLED = 3, 137


@pytest.mark.parametrize("who", ["command", "worker"])
def test_wherever_it_is_killed_a_pause_is_told_before_the_run_goes_on(
    who: str, tmp_path: Path
) -> None:
    program = subprocess.run(
        [sys.executable, __file__, who, str(tmp_path)],
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert program.returncode == 0, program.stderr
    lives = json.loads(program.stdout.splitlines()[-1])
    killed = [life for life in lives if life["status"] == KILLED]
    untold = [life for life in killed if not life["told"]]
    assert len(untold) > 30, lives
    assert [life["line"] for life in untold if life["again"] != [PAUSED, PAUSES_AT]] == []
    passed = set(PASSES) - (set() if who == "command" else {"flows/command.py"})
    assert {life["line"].split(":")[0] for life in killed} == passed
    # Told of it, a start goes on; told in the moment that it is killed, it may be told once more.
    twice = [life for life in killed if life["told"] and life["again"] != [0, STEPS]]
    assert len(twice) <= 15, twice
    assert all(life["again"] == [PAUSED, PAUSES_AT] for life in twice)
    assert all(life["at_last"] == [0, STEPS] for life in lives)
    [whole] = [life for life in lives if life["status"] != KILLED]
    assert (whole["status"], whole["told"], whole["again"]) == (PAUSED, True, [0, STEPS])


def configured(folder: Path) -> Any:
    from visual_r1.config import RunConfig

    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "run": {"name": "watched"},
            "train": {"steps": STEPS, "chunk_steps": CHUNK},
            "logging": {"wandb": False},
            "alarms": {"mismatch": "pause", "window": 5, "max_kl": 0.01},
        }
    )


def train_chunk(run: Any, step: int) -> Any:
    """The checkpoint of `step`, trained if need be; from step 10 on another policy samples."""
    from visual_r1.runs.ledger import Ledger, LedgerRow

    ledger = Ledger(run.run_dir)
    if (there := ledger.at_step(step)) is not None:
        return there
    run.run_dir.mkdir(parents=True, exist_ok=True)
    with (run.run_dir / "metrics.jsonl").open("a") as out:
        for one in range(step - CHUNK, step):
            kl = 0.02 if one >= 10 else 1e-13
            out.write(json.dumps({"step": one, "kl_sampler_learner": kl, "accuracy": 0.5}) + "\n")
    paths = (f"tinker://m/weights/{step}", f"tinker://m/sampler_weights/{step}")
    where = ("c0ffee", "da7a", "embedded", "2026-05-01T10:00:00+00:00")
    ledger.append(row := LedgerRow(step, *paths, None, *where, updates=step))
    return row


def page(config: Any) -> object:
    """What matters here of `flows.train_flow`."""
    from tasks import alarms

    for step in range(CHUNK, STEPS + 1, CHUNK):
        checkpoint = train_chunk(config, step)
        if (paused := alarms.heed_alarms(config, checkpoint)) is not None:
            return paused
    return {}


def start(config: Any, who: str) -> int:
    """One start, as a command does it or a worker; its exit status."""
    from flows import command
    from tasks import alarms, default_server, outcome, watch
    from visual_r1.errors import RunPaused

    @contextmanager
    def attended() -> Generator[bool]:
        yield True

    replaced: Any = outcome
    replaced.attended = attended
    replaced._close_earlier_attempts = lambda: None
    # What the watch finds of an attempt that died, see `tasks.attempts`.
    replaced.has_ended = lambda end: (config.output_dir / "end").write_text(end.name)
    replaced = alarms
    replaced._report = lambda *_: None
    replaced = default_server
    replaced.start_temporary_server = replaced.finish_temporary_server = lambda: None
    replaced = watch
    replaced.mend_once = lambda: None
    replaced = command
    replaced.require_prefect_server = replaced.prefect_server = lambda: None
    replaced.borrow_keys = replaced.require_room = lambda _: None
    work = outcome.remembered(SimpleNamespace(fn=page)).fn

    def flow(config: Any) -> object:
        result = work(config)
        if isinstance(error := getattr(result, "data", None), RunPaused):
            raise error
        return result

    if who == "command":
        return command.run_as_command(flow, load=lambda _: config, needs_server=False)
    try:
        flow(config)
    except RunPaused:
        return PAUSED
    return 0


def kill_at(number: int, noted: Path) -> Callable[[FrameType, str, Any], Any]:
    """Traces a process, which is gone before the line with that number; `noted` says which it was.

    Counted from the call that looks for alarms at the last checkpoint on.
    """
    places = {str(ROOT / name): name for name in PASSES}
    passed = -1

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        if event == "line" and passed >= 0:
            passed += 1
            if passed > number:
                noted.write_text(f"{places[frame.f_code.co_filename]}:{frame.f_lineno}")
                os._exit(KILLED)
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        if frame.f_code.co_filename not in places:
            return None
        looks = frame.f_code.co_name == "check_alarms"
        if looks and frame.f_locals["checkpoint"] == PAUSES_AT:
            passed = 0
        return line

    return call


def in_a_process(work: Callable[[], int], output: Path) -> int:
    """Its exit status; what it prints goes to `output`."""
    if (pid := os.fork()) == 0:
        printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        status = 99
        try:
            status = work()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lives_of(who: str, folder: Path) -> Generator[dict[str, Any]]:
    """One life after the other, each killed a line later, up to one that is not; and what the next
    starts came to: the exit status, and how many steps were trained then."""
    # What is imported here is not imported in each life, which takes seconds.
    start(configured(folder / "warm"), who)
    for number in range(1000):
        config = configured(folder / str(number))
        line, output = config.output_dir / "line", config.output_dir / "output"
        for step in range(CHUNK, PAUSES_AT + 1, CHUNK):
            train_chunk(config, step)

        def first(number: int = number, config: Any = config, line: Path = line) -> int:
            sys.settrace(kill_at(number, line))
            return start(config, who)

        def again(config: Any = config) -> tuple[int, int]:
            status = in_a_process(lambda: start(config, who), config.output_dir / "again")
            ledger = (config.run_dir / "ledger.jsonl").read_text().splitlines()
            return status, json.loads(ledger[-1])["step"]

        status = in_a_process(first, output)
        if who == "command":
            told = "paused: Paused at the checkpoint" in output.read_text()
        else:
            told = (config.output_dir / "end").exists()
        yield {
            "line": line.read_text() if line.exists() else "",
            "status": status,
            "told": told,
            "again": again(),
            "at_last": again(),
        }
        shutil.rmtree(config.output_dir)
        if status != KILLED:
            return


if __name__ == "__main__":
    sys.stdout.write(json.dumps(list(lives_of(sys.argv[1], Path(sys.argv[2])))) + "\n")
