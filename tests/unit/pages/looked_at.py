"""A finished run as the pages' tests look at it, and a browser over a server of its own."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from made_up import checkpoint

from trials.browser import Page, browser, pages_over
from visual_r1.config import RunConfig
from visual_r1.runs.folder import config_without_secrets
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger
from visual_r1.storage import write_json

TOKEN = "a-token"
MODEL = "visual-r1/tiny-geometry"


class Row:
    """A step's metrics, as a run appends them."""

    def __init__(self, step: int, **values: Any) -> None:
        self._row = {"step": step, "updated": True, "accuracy": 0.5 + step / 200}
        self._row |= {"reward_mean": 1.0 + step % 10 / 100} | values

    def row(self) -> dict[str, Any]:
        """As a row of metrics.jsonl."""
        timed = {"seconds_first_pass": 0.6, "seconds_train": 0.7, "seconds_total": 1.4}
        return self._row | timed


def run_config(folder: Path, name: str, *, model: str = MODEL, **train: Any) -> RunConfig:
    """A small run's."""
    return RunConfig.model_validate(
        {
            "output_dir": folder,
            "run": {"name": name},
            "backend": {"server": "embedded"},
            "model": {"name": model},
            "data": {"source": "procedural"},
            "train": {"steps": 40, "chunk_steps": 10} | train,
        }
    )


def trained(folder: Path, name: str, steps: int = 20, *, model: str = MODEL, **train: Any) -> Path:
    """The folder of a run that was killed after so many steps."""
    config = run_config(folder, name, model=model, **train)
    run_dir = folder / "runs" / name
    run_dir.mkdir(parents=True)
    write_json(run_dir / "config.json", config_without_secrets(config))
    journal, ledger = Journal(run_dir), Ledger(run_dir)
    for step in range(steps):
        journal.append(Row(step))
    for step in range(10, steps + 1, 10):
        ledger.append(checkpoint(step, config.digest()))
    return run_dir


def evaluated(run_dir: Path, name: str, accuracy: float, weights: str = "") -> None:
    """A report of an evaluation, as far as the pages read it; of some `weights`."""
    folder = run_dir / "evaluations" / name
    folder.mkdir(parents=True, exist_ok=True)
    low, high = accuracy - 0.04, accuracy + 0.04
    report = {"n": 512, "accuracy": accuracy, "accuracy_ci95": [low, high]}
    report |= {
        "sampler_path": weights or f"tinker://a:train:0/sampler_weights/{name}",
        "model": "tiny",
    }
    (folder / "report.json").write_text(json.dumps(report))


def ended(run_dir: Path, step: int) -> None:
    """Make it a run that came to its end at a checkpoint: evaluated before and after, reported."""
    wanting(run_dir, step)
    evaluated(run_dir, "baseline", 0.65, MODEL)
    evaluated(run_dir, "final", 0.86, f"tinker://a:train:0/sampler_weights/{step}")
    summary: dict[str, Any] = {
        "conclusion": "Accuracy rose.", "evidence": "the evidence", "distinguishable": True,
        "baseline": 0.65, "final": 0.86, "delta": 0.21, "delta_ci95": [0.17, 0.25],
        "p_value": 1e-9, "n": 512, "gained": 120, "lost": 12, "steps": step,
        "updated_steps": step, "wall_seconds": 60.0,
    }  # fmt: skip
    write_json(run_dir / "summary.json", summary)


def wanting(run_dir: Path, steps: int) -> None:
    """As if `--train.steps` had made the run so long."""
    content = json.loads((run_dir / "config.json").read_text())
    content["train"]["steps"] = steps
    write_json(run_dir / "config.json", content)


@contextmanager
def looking(folder: Path, profile: Path) -> Generator[tuple[Page, str]]:
    """A browser that has the token, and where the pages are."""
    with pages_over(folder, TOKEN) as address, browser(profile) as page:
        page.open(f"{address}/?token={TOKEN}")
        yield page, address
