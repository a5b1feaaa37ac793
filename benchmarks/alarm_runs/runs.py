"""Runs of the quickstart with and without a fault, trained by the library, chunk after chunk.

A run with a fault ends where its alarms have seen it: the steps until then are what is asked for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trials.fault_proxy import FaultProxy
from visual_r1.alarms import AlarmName
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.engine.launch import READY
from visual_r1.progress import PlainProgress
from visual_r1.runs.alarms import check_alarms
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.resume import resume_point
from visual_r1.runs.run import Run as Training
from visual_r1.runs.validate import validate

MODEL = "visual-r1/tiny-geometry"
KEY = "tml-planted"
COLDER = 0.7
DONE = "ended.json"
# Asks for the description in a place where the shipped model writes it one time in ten.
HALF_ASKED = """[user]
{{ problem }}
Describe. Think inside <think> </think>. Then give only the final answer inside <answer> </answer>. Describe the figure inside <scan> </scan>, so that the question can be solved without it.

[format]
scan think answer
"""  # noqa: E501


@dataclass(frozen=True)
class Run:
    """A kind of run: what is planted in it, which alarms are to see it, how long it may take.

    `settings` are laid over those of all, `fault` names one of the server or the prompt.
    """

    planted: str
    alarms: tuple[AlarmName, ...]
    steps: int
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Any])
    fault: str = ""


_NOTHING_ELSE = {"accuracy": 0, "visual_grounding": 0}
_ALL = {"train": {"skip_without_contrast": False}}
PLANTED: dict[str, Run] = {
    "hack": Run("a format that alone is paid for", ("format",), 80,
                {"reward": {"format": 1, **_NOTHING_ELSE}}, fault="template"),
    "habit": Run("a habit that alone is paid for: answers near 90", ("format",), 80,
                 {"reward": {"custom": "alarm_rewards:near_ninety", **_NOTHING_ELSE}, **_ALL}),
    "collapse": Run("a learning rate 20 times too high", ("entropy", "validation"), 60,
                    {"train": {"learning_rate": 0.02}}),
    "tempered": Run(f"a sampler at temperature {COLDER}, log-probabilities too", ("mismatch",), 20,
                    fault="tempered"),
    "colder": Run(f"draws at temperature {COLDER}, log-probabilities at 1", ("mismatch",), 40,
                  fault="colder"),
}  # fmt: skip
HEALTHY: dict[str, Run] = {
    "healthy": Run("", (), 60),
    "healthy-small": Run("", (), 60, {"train": {"group_size": 4}}),  # the noisiest there is
}


def config_of(output_dir: Path, name: str, run: Run, seed: int, problems: int) -> RunConfig:
    """The quickstart with `problems` problems a step, and what is planted.

    All runs share one dataset, so that it is prepared once; their seeds order and sample it.
    """
    common: dict[str, dict[str, Any]] = {
        "run": {"name": name},
        "backend": {"threads": 1, "keep_checkpoints": 2},
        "data": {"seed": 3700, "train": 1024, "validation": 64, "test": 64},
        "train": {"seed": seed, "steps": run.steps, "batch_size": problems},
        "evaluation": {"seed": seed},
        "validation": {"every": 2, "problems": 64},
        "logging": {"wandb": False},
    }
    if run.fault == "template":
        template = output_dir / "half_asked.txt"
        template.write_text(HALF_ASKED)
        common["prompt"] = {"template": str(template)}
    if run.fault in ("tempered", "colder"):
        common["backend"]["server"] = "remote"
    for section, settings in run.settings.items():
        common[section] = common.get(section, {}) | dict(settings)
    return RunConfig.model_validate({"preset": "quickstart", "output_dir": output_dir, **common})


def train(output_dir: Path, name: str, run: Run, seed: int, problems: int) -> None:
    """One run to its end, or until its alarms have seen what is planted, from wherever it is."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with planted_server(run.fault, output_dir / f"engine-{name}") as url, at(url):
        config = config_of(output_dir, name, run, seed, problems)
        with open_run_folder(config) as run_dir, open_backend(config) as backend:
            dataset = prepare(config.data, config.output_dir)
            work = Training(config, run_dir, dataset, backend, PlainProgress(sys.stderr))
            row = resume_point(work)
            validate(work, row)
            to_see = set(run.alarms)
            while (to_see or not run.alarms) and (row is None or row.step < run.steps):
                row = train_chunk(work, row)
                validate(work, row)
                to_see -= {found.alarm for found in check_alarms(config, row.step)}
    (run_dir / DONE).write_text(json.dumps({"not_seen": sorted(to_see)}))


@contextmanager
def at(url: str | None) -> Generator[None]:
    """The server at `url` in the environment, where there is one."""
    if url is not None:
        os.environ |= {"TINKER_BASE_URL": url, "TINKER_API_KEY": KEY, "TINKER_TELEMETRY": "0"}
    try:
        yield
    finally:
        if url is not None:
            del os.environ["TINKER_BASE_URL"], os.environ["TINKER_API_KEY"]


@contextmanager
def planted_server(fault: str, home: Path) -> Generator[str | None]:
    """The address of a server with the fault; None where it is not the server's."""
    if fault == "tempered":
        with engine(home, COLDER) as url:
            yield url
    elif fault == "colder":
        with engine(home, 1.0) as url, FaultProxy(url, 0, share=0, rewrite=colder) as proxy:
            yield proxy.url
    else:
        yield None


@contextmanager
def engine(home: Path, temperature: float) -> Generator[str]:
    """The address of `tempered_engine.py`, which serves for the block; 1 is without the fault."""
    script = Path(__file__).parents[1] / "tempered_engine.py"
    command = [sys.executable, str(script), str(temperature), "--port=0", f"--home={home}"]
    command += [f"--model={MODEL}", "--threads=1", f"--api-key={KEY}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith(READY))
        try:
            yield line.removeprefix(READY).strip()
        finally:
            process.terminate()


def colder(path: str, body: bytes) -> bytes:
    """A request for samples, at another temperature than its client asked for."""
    if not path.endswith("/asample"):
        return body
    request: dict[str, Any] = json.loads(body)
    if request["sampling_params"]["temperature"] == 1:  # greedy evaluations stay greedy
        request["sampling_params"]["temperature"] = COLDER
    return json.dumps(request).encode()
