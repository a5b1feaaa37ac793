"""Many commands of a flow in one process, since importing Prefect and starting its temporary
server take longer than what a test wants to see.

As a program it reads a JSON object a line, {"flow": "train", "flags": [...],
"full_disk": "flow", "engine" or null}, and answers with {"status": n, "seconds": s}; what the
command prints goes to `output.log`.
"""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from train_command import ROOT, clean_environment

FULL_ABOVE = 4000
"""Bytes a file may have on what stands for a full disk."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, all that it printed, and the seconds it took."""

    status: int
    output: str
    seconds: float

    @property
    def sentence(self) -> str:
        """What follows `error:`; it must be there once, on a line of its own."""
        assert self.status == 1, self.output
        assert "Traceback" not in self.output, self.output
        lines = [line for line in self.output.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.output
        return lines[0].removeprefix("error: ")


class WarmCommand:
    """A process that has imported everything; `run` is one command in it.

    `environment` lies over what is left of this one.
    """

    def __init__(self, home: Path, **environment: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.results = home / ".visual-r1" / "results"  # Prefect's, of all its commands
        self._log = home / "output.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--output-dir", str(home)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=home,
                env=clean_environment() | {"PYTHONPATH": str(ROOT)} | environment,
                text=True,
            )

    def run(
        self,
        *flags: object,
        flow: Literal["train", "sft", "evaluate", "export", "promote", "sweep"] = "train",
        full_disk: Literal["flow", "engine"] | None = None,
    ) -> Ended:
        """Run that flow's command with `flags`.

        With `full_disk` that process can write no file of more than `FULL_ABOVE` bytes, from the
        engine's start on.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        start = self._log.stat().st_size
        given = [str(flag) for flag in flags]
        request = {"flow": flow, "flags": given, "full_disk": full_disk}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        output = self._log.read_bytes()[start:].decode()
        assert answer, output
        return Ended(**json.loads(answer), output=output)

    def __enter__(self) -> "WarmCommand":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _serve() -> None:
    # The answers have the real stdout to themselves; what the commands print goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from flows import by_run, evaluate_flow, sft_flow, sweep_flow
    from flows.command import run_as_command
    from flows.train_flow import train
    from visual_r1.backend import backend
    from visual_r1.runs.goal import require_goal

    limit = resource.RLIMIT_FSIZE
    before = resource.getrlimit(limit)
    begin_engine = backend.begin_engine
    for line in sys.stdin:
        request = json.loads(line)

        def begin_on_a_full_disk(*args: Any, who: str = request["full_disk"], **named: Any) -> Any:
            starting = begin_engine(*args, **named)
            pid = starting._process.pid if who == "engine" else os.getpid()
            resource.prlimit(pid, limit, (FULL_ABOVE, before[1]))
            return starting

        backend.begin_engine = begin_on_a_full_disk if request["full_disk"] else begin_engine
        began = time.monotonic()
        try:
            if request["flow"] == "sft":
                status = run_as_command(
                    sft_flow.sft, request["flags"], check=require_goal, load=sft_flow.load
                )
            elif request["flow"] != "train":
                sys.argv[1:] = request["flags"]
                of_own_flags = {"evaluate": evaluate_flow, "sweep": sweep_flow}
                if request["flow"] in of_own_flags:
                    status = of_own_flags[request["flow"]].main()
                else:
                    status = getattr(by_run, request["flow"])(request["flags"])
            else:
                status = run_as_command(train, request["flags"], check=require_goal)
        finally:
            resource.setrlimit(limit, before)
        sys.stdout.flush()
        answers.write(json.dumps({"status": status, "seconds": time.monotonic() - began}) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
