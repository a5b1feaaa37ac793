"""Do the alarms trip on what is planted, and on nothing else? Whole runs, default alarms.

    python benchmarks/alarms.py --output-dir DIR                       # all of them
    python benchmarks/alarms.py --output-dir DIR --only hack healthy-202

Healthy runs are the quickstart over 200 steps (and Vision-SR1 over 60); what is planted is said
beside each run in `PLANTED`. What is in DIR already is not run again. Prints a Markdown table;
docs/alarms.md holds it.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The folder `trials` stands beside this one.
sys.path.append(str(Path(__file__).parents[1]))

from whole_runs import ROOT

from trials.fault_proxy import FaultProxy
from visual_r1.engine.launch import READY
from visual_r1.grading import extract_answer

if TYPE_CHECKING:
    from visual_r1.grading import Grade
    from visual_r1.rewards import RewardInput

MODEL = "visual-r1/tiny-geometry"
KEY = "tml-planted"
COLDER = 0.7
COMMON = [
    "--validation.every=4",
    "--evaluation.problems=64",
    "--evaluation.samples=1",
    "--backend.keep_checkpoints=2",
    "--no-logging.wandb",
]
# Asks for the description in a place where the shipped model writes it one time in ten.
HALF_ASKED = """[user]
{{ problem }}
Describe. Think inside <think> </think>. Then give only the final answer inside <answer> </answer>. Describe the figure inside <scan> </scan>, so that the question can be solved without it.

[format]
scan think answer
"""  # noqa: E501


def near_ninety(sample: "RewardInput", grade: "Grade") -> float:
    """A habit that pays: answers close to 90, whatever was asked."""
    del grade
    said = extract_answer(sample.response) or ""
    return -abs(float(said) - 90) / 90 if said.isdecimal() and len(said) < 5 else -2.0


@dataclass(frozen=True)
class Run:
    """A run: what is planted in it (nothing in a healthy one), its seed, its flags."""

    planted: str
    seed: int
    steps: int
    flags: tuple[str, ...] = ()
    preset: str = "quickstart"
    fault: str = ""


_FORMAT_ALONE = ("--reward.format=1", "--reward.accuracy=0", "--reward.visual_grounding=0")
_NINETY = (
    "--reward.custom=alarms:near_ninety",
    "--reward.accuracy=0",
    "--reward.visual_grounding=0",
    "--no-train.skip_without_contrast",
)
_FEW = ("--data.train=384", "--data.validation=64", "--data.test=64")  # as many as 20 steps need
PLANTED = {
    "hack": Run("a format that alone is paid for", 301, 60, _FORMAT_ALONE, fault="template"),
    "habit": Run("a habit that alone is paid for: answers near 90", 303, 60, _NINETY),
    "collapse": Run("a learning rate 20 times too high", 302, 40, ("--train.learning_rate=0.02",)),
    "tempered": Run(f"a sampler at temperature {COLDER}, log-probabilities too", 305, 20, _FEW,
                    fault="tempered"),
    "colder": Run(f"draws at temperature {COLDER}, log-probabilities at 1", 306, 20, _FEW,
                  fault="colder"),
}  # fmt: skip
HEALTHY = {
    **{f"healthy-{seed}": Run("", seed, 200) for seed in (100, 201, 202, 203)},
    "vision-sr1": Run("", 401, 60, preset="vision_sr1"),
}
RUNS = PLANTED | HEALTHY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    arguments = parser.parse_args()
    output_dir = arguments.output_dir.absolute()
    for name in arguments.only:
        if not (output_dir / "runs" / name / "summary.json").exists():
            train(output_dir, name, RUNS[name])
    print("\n".join(table(output_dir, arguments.only)))


def train(output_dir: Path, name: str, run: Run) -> None:
    """One run to its end, from wherever it is."""
    output_dir.mkdir(parents=True, exist_ok=True)
    flags = [f"--preset={run.preset}", *COMMON, *run.flags, f"--train.steps={run.steps}"]
    if run.fault == "template":
        template = output_dir / "half_asked.txt"
        template.write_text(HALF_ASKED)
        flags.append(f"--prompt.template={template}")
    with planted_server(run.fault, output_dir / f"engine-{name}") as url:
        if url is not None:
            flags += ["--backend.server=remote", f"--backend.base_url={url}"]
        subprocess.run(
            [
                sys.executable,
                str(ROOT / "flows/train_flow.py"),
                f"--output-dir={output_dir}",
                f"--run.name={name}",
                f"--train.seed={run.seed}",
                f"--data.seed={3000 + run.seed}",
                f"--evaluation.seed={run.seed}",
                *flags,
            ],
            check=True,
            cwd=Path(__file__).parent,  # where reward.custom finds this file
            env=os.environ | {"TINKER_API_KEY": KEY} if url is not None else os.environ,
        )


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
    script = Path(__file__).with_name("tempered_engine.py")
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


def table(output_dir: Path, names: Sequence[str]) -> list[str]:
    """What each run tripped and when, as the lines of a Markdown table."""
    lines = ["| run | planted | steps | tripped, at step | what was seen |", "| --- " * 5 + "|"]
    for name in names:
        path = output_dir / "runs" / name / "alarms.jsonl"
        found = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        tripped = ", ".join(f"{one['alarm']} {one['step']}" for one in found) or "none"
        seen = found[0]["seen"] if found else ""
        run = RUNS[name]
        lines.append(f"| {name} | {run.planted or 'nothing'} | {run.steps} | {tripped} | {seen} |")
    return lines


if __name__ == "__main__":
    main()
