"""What a run is doing, or how it ended, by its folder alone: for lists and pages.

Nothing here is told by anybody: a process that was killed says nothing. So a run is at work while
its lock is held, which the kernel frees however the process ends, and else its files say how far it
came, and how its last start ended (see `process`).

A list has many runs, so this reads little, and imports nothing that takes time: of other files'
rows it knows what it asks for, and no more.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic_core import from_json

from visual_r1.errors import RunError
from visual_r1.jsonl import JsonLines
from visual_r1.liveness import is_locked, lives_since
from visual_r1.runs.config_file import CONFIG_FILE, read_config
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.process import LOCK, OWNER, is_untold, owner_in, read_ending
from visual_r1.runs.result import is_of_newest
from visual_r1.storage import read_if_sound, read_json
from visual_r1.wording import duration

State = Literal[
    "training", "evaluating", "waiting",
    "ended", "evaluated", "paused", "failed", "stopped", "killed",
]  # fmt: skip

SILENT_S = 300.0
"""A process that has written nothing for so long, and for three of its steps, waits."""

_TAIL = 2**16


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run is doing: `name`, and `sentence` with why, and how it goes on.

        training   a process is at work on it
        evaluating one is at work on it, and all steps are trained
        waiting    one has it and has written nothing for long, or waits for its turn
        ended      all steps are trained, or its budget is spent, and it is reported
        evaluated  nothing was to be trained, and what was asked is there
        paused     an alarm paused it at its newest checkpoint
        failed     its last start ended by an error: the sentence is the error's
        stopped    a person stopped it
        killed     its process has gone without a word

    `step` of `steps` are trained and saved. `changed_at` is when a file of it changed last (seconds
    since the epoch), `pid` the process at work, where there is one and it is known. `is_done` says
    that nothing is left to train and the summary is of the newest checkpoint: that of a run that
    went on, or back, tells of a checkpoint of before.
    """

    name: State
    sentence: str
    step: int
    steps: int
    changed_at: float
    pid: int | None = None
    is_done: bool = False

    @property
    def is_at_work(self) -> bool:
        """Whether a process has the run: its files may change at any moment."""
        return self.name in ("training", "evaluating", "waiting")


@dataclass(frozen=True, slots=True)
class _Summary:
    """All that is asked of a run's summary, which a run writes last."""

    steps: int


@dataclass(frozen=True, slots=True)
class _Budget:
    """Of how a run ended by its budget, see `budget`."""

    setting: str
    step: int


_SUMMARIES, _BUDGETS = TypeAdapter(_Summary), TypeAdapter(_Budget)
_ROWS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def state_of(run_dir: Path) -> RunState:
    """The state of the run in `run_dir`; changes nothing.

    Raises `RunError` where the folder holds no run, or its configuration is damaged.
    """
    config = read_config(run_dir)
    if config is None:
        raise RunError(f"{run_dir} is no run's folder: there is no {CONFIG_FILE} in it.")
    rows = [line.row for line in Ledger(run_dir).read().sound]
    step, steps = rows[-1].step if rows else 0, config.train.steps
    changed = last_change(run_dir)
    done = _is_done(run_dir, rows, steps)

    def found(name: State, sentence: str, pid: int | None = None) -> RunState:
        return RunState(name, sentence, step, steps, changed, pid, is_done=done is not None)

    owner = run_dir / OWNER
    pid = int(said) if (said := owner_in(owner)).isdecimal() else None
    if is_locked(run_dir / LOCK):
        silent = time.time() - changed
        who = f"Process {pid}" if pid else "A process"
        if silent > max(SILENT_S, 3 * _longest_step(run_dir)):
            return found(
                "waiting",
                f"{who} has it and has written nothing for {duration(silent)}: it waits for its "
                "server or another run, or asks for answers.",
                pid,
            )
        if step >= steps:
            return found(
                "evaluating",
                f"All {steps} steps are trained, and {who[0].lower()}{who[1:]} evaluates.",
                pid,
            )
        return found("training", f"{who} is at work on it.", pid)
    again = f"It goes on with: visual-r1 resume {run_dir}"
    if (pausing := _pausing(run_dir, step)) and step < steps:
        if is_untold(run_dir, step):
            again = (
                f"Its process was gone before it had said so: visual-r1 resume {run_dir} says it, "
                "and goes on when it is given once more"
            )
        return found("paused", f"{pausing} {again}.")
    if done is not None:
        return found("ended", done)
    if (ending := read_ending(run_dir)) is not None:
        return found(ending.kind, ending.sentence if ending.kind == "failed" else f"{again}.")
    if pid is not None and lives_since(pid, owner.stat().st_mtime):
        return found("waiting", f"Process {pid} is about to begin, or waits for its turn.", pid)
    evaluated = sorted(path.parent.name for path in run_dir.glob("evaluations/*/report.json"))
    # A start that trains counts its wall time from the first evaluation on.
    if evaluated and not rows and not (run_dir / "wall.json").exists():
        return found("evaluated", f"Nothing was to be trained; there is: {', '.join(evaluated)}.")
    kept = f"Step {step} of {steps} is kept." if step else "It had no checkpoint yet."
    return found("killed", f"Its process is gone without a word. {kept} {again}.")


def last_change(run_dir: Path) -> float:
    """When a file of the run changed last, in seconds since the epoch.

    Of what a run writes while it is at work; a report that is made again does not count.
    """
    newest = 0.0
    places = [run_dir / name for name in ("metrics.jsonl", "ledger.jsonl", "validation.jsonl")]
    places += [run_dir / OWNER, run_dir / CONFIG_FILE, *run_dir.glob("evaluations/*/*")]
    for place in places:
        with suppress(OSError):
            newest = max(newest, place.stat().st_mtime)
    return newest


def _is_done(run_dir: Path, rows: Sequence[LedgerRow], steps: int) -> str | None:
    """How a run ended whose report is about its newest checkpoint; None where it has further to
    go."""
    step = rows[-1].step if rows else 0
    try:
        summary = read_json(run_dir / "summary.json", _SUMMARIES)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        # Damaged: verify says so. It is written last, and made again from the other files.
        return f"All {steps} steps are trained." if step >= steps else None
    if not is_of_newest(run_dir, rows, summary.steps):
        return None
    if step < steps:
        budget = read_if_sound(run_dir / "budget.json", _BUDGETS, "it is not looked at")
        if budget is None or budget.step != step:
            return None
        return f"Ended by {budget.setting} at step {step} of {steps}, evaluated and reported."
    return f"All {step} steps are trained, evaluated and reported."


def _pausing(run_dir: Path, step: int) -> str:
    """What the alarms saw at the checkpoint of `step` and paused the run for; else nothing."""
    rows = JsonLines(run_dir / "alarms.jsonl", _ROWS).rows()
    seen = [str(row.get("seen")) for row in rows if row.get("action") == "pause"]
    at = [row.get("checkpoint") for row in rows if row.get("action") == "pause"]
    return seen[-1] if at[-1:] == [step] else ""


def _longest_step(run_dir: Path) -> float:
    """Seconds of the longest of the newest steps; 0 where nothing was trained."""
    longest = 0.0
    with suppress(OSError):
        with (run_dir / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
        for line in lines:
            with suppress(ValueError, TypeError, AttributeError):  # the first one is cut off
                longest = max(longest, float(from_json(line).get("seconds_total") or 0))
    return longest
