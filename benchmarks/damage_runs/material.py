"""Two small runs beside one dataset and one engine home each: one that ended, one that was killed.

They have what a run can leave: second passes, a curriculum, validations, alarms, an export,
evaluations and a report. The killed one has two checkpoints of three, and the metrics of the steps
behind them.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from visual_r1.config import RunConfig

Scenario = Literal["killed", "ended"]
STEPS, CHUNK_STEPS = 6, 2
NAME = "small"


def config(place: Path) -> RunConfig:
    """One run of six steps in three chunks and a coin flip in the reward."""
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": place,
            "run": {"name": NAME},
            "backend": {"threads": 1},
            "data": {"train": 8, "validation": 4, "test": 4},
            "train": {
                "steps": STEPS,
                "chunk_steps": CHUNK_STEPS,
                "batch_size": 2,
                "group_size": 4,
                "skip_without_contrast": False,
            },
            "model": {"lora_rank": 2},
            "curriculum": {"rule": "contrast"},
            "prompt": {"template": "scan_think"},
            "second_pass": {"enabled": True},
            "sampling": {"max_new_tokens": 32},
            "validation": {"every": 1, "problems": 2},
            "evaluation": {"samples": 1, "blind": False},
            "reward": {"random": 1.0},
            "alarms": {"window": 4, "max_kl": 1e-18},
            "logging": {"wandb": False},
        }
    )


def going_on(config: RunConfig, step: int) -> RunConfig:
    """One chunk more from the checkpoint of `step`."""
    steps = {"resume_from_step": step, "steps": step + CHUNK_STEPS}
    return config.model_copy(update={"train": config.train.model_copy(update=steps)})


class Killed(BaseException):
    """Stands for SIGKILL."""


def make(into: Path) -> None:
    """Both runs, in `into`/killed and `into`/ended; a folder that is there already stays."""
    from damage_runs import life
    from visual_r1.runs.journal import Journal

    kept: Any = Journal
    write = kept.write_rollouts

    def killed(journal: Journal, chunk: int, *what: Any, **more: Any) -> Path:
        if chunk == STEPS // CHUNK_STEPS - 1:
            raise Killed
        return write(journal, chunk, *what, **more)

    for scenario, writing in (("killed", killed), ("ended", write)):
        done = into / f"{scenario}.json"
        if done.exists():
            continue
        place = workplace(into)
        clear(place)
        life.know_results({})
        kept.write_rollouts = writing
        try:
            life.train(config(place))
        except Killed:
            pass
        finally:
            kept.write_rollouts = write
        shutil.rmtree(into / scenario, ignore_errors=True)
        shutil.copytree(place, into / scenario)
        done.write_text(json.dumps(life.known_results()))


def workplace(into: Path) -> Path:
    """Where runs are made and tried: always the same, since some files hold their place."""
    return into / "work" / str(worker_number())


def worker_number() -> int:
    """Which of several workers this is."""
    return int(os.environ.get("DAMAGE_WORKER", "0"))


def lay_out(into: Path, scenario: Scenario) -> Path:
    """A fresh copy of a run in the workplace, and the results that Prefect had of it."""
    from damage_runs import life

    place = workplace(into)
    clear(place)
    shutil.copytree(into / scenario, place)
    life.know_results(json.loads((into / f"{scenario}.json").read_text()))
    return place


def clear(place: Path) -> None:
    """Remove what is there."""
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
