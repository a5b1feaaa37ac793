"""The processes that `make up` starts: known for certain, also after a power cut.

A process number alone may be another process's by now, and a time of birth moves with the clock.
So each process carries the folder that it belongs to in its environment, and is ours where it has
that and the command line that was written down.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from visual_r1.errors import StorageError
from visual_r1.storage import read_json, write_json

MARK = "VISUAL_R1_UP"
"""The variable that every process of `make up` carries: the folder of its logs and records."""

LARGEST_LOG = 20 * 2**20


@dataclass(frozen=True, slots=True)
class Started:
    """A process as it was started."""

    pid: int
    command: list[str]


_TABLE: TypeAdapter[dict[str, Started]] = TypeAdapter(dict[str, Started])


class Processes:
    """What was started for one folder, by the name of its part: `server`, `worker`, `pages`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "processes.json"

    def table(self) -> dict[str, Started]:
        """What was written down; empty where nothing, or nothing readable, is there."""
        try:
            return read_json(self._path, _TABLE)
        except (OSError, StorageError, ValueError):
            return {}

    def living(self, name: str) -> psutil.Process | None:
        """The process of this name, where it lives and is ours."""
        started = self.table().get(name)
        return self._ours(started) if started else None

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str], cwd: Path
    ) -> "subprocess.Popen[bytes]":
        """Start one that outlives this process; what it prints goes to `NAME.log`.

        Who keeps it writes it down: `write_down`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.log(name)
        if log.exists() and log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            return subprocess.Popen(
                list(command),
                cwd=cwd,
                env=dict(env) | {MARK: str(self.folder), "PWD": str(cwd)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in this terminal is not for it
            )

    def write_down(self, name: str, pid: int, command: Sequence[str]) -> None:
        """Remember a process under its name. One process alone may do so at a time: the keeper."""
        table = self.table() | {name: Started(pid, list(command))}
        write_json(self._path, {key: asdict(value) for key, value in table.items()})

    def log(self, name: str) -> Path:
        """Where the process of this name writes."""
        return self.folder / f"{name}.log"

    def last_words(self, name: str) -> str:
        """The last line that it wrote, for a sentence; empty where there is none."""
        with suppress(OSError):
            lines = self.log(name).read_bytes()[-4000:].decode(errors="replace").splitlines()
            return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]
        return ""

    def end(self, patience_s: float) -> list[str]:
        """End all that belongs to this folder; the names of the parts that lived.

        Who keeps the others alive goes first. Worker and flows are asked together: the worker takes
        no new run, the flows save what they have and tell the server, which is there to the last.
        """
        lived = [name for name in self.table() if self.living(name)]
        self._end(process for process in [self.living("keeper")] if process)
        server = self.living("server")
        self._end(self._heads(without=server), patience_s)
        self._end((one for one in self._marked() if one != server), patience_s)
        self._end(self._marked(), patience_s)
        self._path.unlink(missing_ok=True)
        return [name for name in lived if name != "keeper"]

    def _end(self, processes: Iterable[psutil.Process], patience_s: float = 5.0) -> None:
        """Ask them to end, and kill those that do not within `patience_s`."""
        left = list(processes)
        for process in left:
            with suppress(psutil.Error):
                process.terminate()
        _, left = psutil.wait_procs(left, patience_s)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, patience_s)

    def _heads(self, without: psutil.Process | None) -> list[psutil.Process]:
        """The worker, the flows, and what else was not started by another of ours.

        A flow's own helpers are not among them: it ends them itself, when it has saved.
        """
        worker, marked = self.living("worker"), self._marked()
        helped = {one.pid for one in marked if one != worker}
        found: list[psutil.Process] = []
        for process in marked:
            with suppress(psutil.Error):
                if process != without and process.ppid() not in helped:
                    found.append(process)
        return found

    def _marked(self) -> list[psutil.Process]:
        """All processes that carry the mark, those too whose parents have gone."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and self._carries_mark(process):
                    found.append(process)
        return found

    def _carries_mark(self, process: psutil.Process) -> bool:
        return process.environ().get(MARK) == str(self.folder)

    def _ours(self, started: Started) -> psutil.Process | None:
        with suppress(psutil.Error, OSError):
            process = psutil.Process(started.pid)
            if (
                process.status() != psutil.STATUS_ZOMBIE
                and process.cmdline() == started.command
                and self._carries_mark(process)
            ):
                return process
        return None


def python(*arguments: str) -> list[str]:
    """The command line of this Python; nothing that lies in the current folder hides a package."""
    return [sys.executable, "-P", *arguments]
