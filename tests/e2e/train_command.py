"""`python flows/train_flow.py` as a user starts it, small enough for a test."""

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from trials.programs import ROOT, SMALL_FLOW, clean_environment, flow_command, run_dir

__all__ = ["ROOT", "SMALL", "Folder", "clean_environment", "command", "finish", "start"]

SMALL = SMALL_FLOW


@dataclass(frozen=True)
class Folder:
    """Where a run leaves its files."""

    root: Path

    @property
    def run(self) -> Path:
        return run_dir("flow", self.root)

    def rows(self, name: str) -> list[dict[str, object]]:
        path = self.run / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def adapter(self) -> bytes:
        return (self.run / "export/adapter/adapter_model.safetensors").read_bytes()


def command(**changes: object) -> list[str]:
    """The command line; `train_steps=4` becomes `--train.steps 4`."""
    return flow_command(SMALL | {name.replace("__", "."): value for name, value in changes.items()})


def start(
    folder: Path, *, in_a_terminal: bool = False, **changes: object
) -> "subprocess.Popen[str]":
    """Start a run in `folder` and leave it running.

    As in a terminal it heads a process group of its own, which Ctrl-C reaches as a whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        command(**changes),
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0 if in_a_terminal else None,
        # Who starts the tests in the background may have everything below ignore the signal.
        preexec_fn=_hear_ctrl_c if in_a_terminal else None,
    )


def _hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(folder: Path, **changes: object) -> tuple[int, str]:
    """Run to the end; exit status and all that was printed."""
    process = start(folder, **changes)
    output, _ = process.communicate()
    return process.returncode, output
