"""The program that keeps server, worker and pages alive: `make up` starts it, `make down` ends it.

It starts what does not live and looks again each second. What lives is left alone, whoever started
it: after the death of a keeper, the next one takes its processes as they are.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from filelock import FileLock, Timeout

from flows.operating.environment import POOL, server_environment, worker_environment
from flows.operating.processes import Processes, python
from tasks.own_server import WORKER_NAME
from visual_r1.printing import say

ADDRESS_VARIABLE = "VISUAL_R1_UP_SERVER"
"""The keeper's own: the address of the server that it works for."""

LOOK_EVERY_S = 1.0
LONGEST_PAUSE_S = 60.0
HEALTHY_AFTER_S = 120.0
"""A process that lived for so long is started again at once; others after growing pauses."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be kept: a server of our own on `port`, or somebody else's at `api_url`."""

    root: Path
    folder: Path
    api_url: str
    port: int | None
    pages_port: int

    @classmethod
    def parse(cls, text: str, environ: Mapping[str, str]) -> "Plan":
        """The plan that `as_text` wrote, with the address that `environment` has."""
        given: dict[str, Any] = json.loads(text)
        given["api_url"] = environ.get(ADDRESS_VARIABLE, given["api_url"])
        given |= {name: Path(given[name]) for name in ("root", "folder")}
        return cls(**given)

    def as_text(self) -> str:
        """For a command line, which every user of the machine can read."""
        from visual_r1.backend.endpoint import without_secrets  # imports the SDK: for who shows it

        return json.dumps(
            {
                "root": str(self.root),
                "folder": str(self.folder),
                "api_url": without_secrets(self.api_url),
                "port": self.port,
                "pages_port": self.pages_port,
            }
        )

    def environment(self) -> dict[str, str]:
        """What of it is no other user's to see: the address, which may hold a password."""
        return {ADDRESS_VARIABLE: self.api_url}

    @property
    def pages_url(self) -> str:
        """Where the runs' pages are."""
        return f"http://127.0.0.1:{self.pages_port}"

    @property
    def home(self) -> Path:
        """The server's Prefect home: its database."""
        return self.folder / "prefect"


class Part:
    """One process that is kept alive."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], *, needs_server: bool
    ) -> None:
        self.name = name
        self.needs_server = needs_server
        self._command, self._env = command, env
        self._began: float | None = None
        self._pause_s = 0.0
        self._child: subprocess.Popen[bytes] | None = None

    def look(self, processes: Processes, plan: Plan) -> None:
        """Start it where it does not live, and where its time has come."""
        if self._child is not None:
            self._child.poll()  # else it stays as a zombie
        if processes.living(self.name):
            return
        now = time.monotonic()
        lived_s = math.inf if self._began is None else now - self._began
        if lived_s >= HEALTHY_AFTER_S:
            self._pause_s = 0.0
        if lived_s < self._pause_s or (self.needs_server and not answers(plan.api_url)):
            return
        if self._began is not None:
            say(f"{time.ctime()}: {self.name} has ended, and is started again")
        self._began = now
        self._pause_s = min(LONGEST_PAUSE_S, max(2.0, 2 * self._pause_s))
        self._child = processes.start(self.name, self._command, self._env, plan.root)
        processes.write_down(self.name, self._child.pid, self._command)


def parts_of(plan: Plan) -> list[Part]:
    """Server (where it is our own), worker and pages, as they are started."""
    results = plan.root / ".visual-r1" / "results"
    prefect = python("-m", "prefect")
    work = worker_environment(plan.api_url, results, plan.pages_url)
    # Their log is no place for the token, which `up` prints.
    pages = python(
        *("-m", "flows.console", "view", "--output-dir", str(plan.root)),
        *("--port", str(plan.pages_port), "--no-browser", "--quiet"),
    )
    parts = [
        Part(
            "worker",
            [
                *(*prefect, "worker", "start", "--pool", POOL, "--type", "process"),
                *("--name", WORKER_NAME),
            ],
            work,
            needs_server=True,
        ),
        Part("pages", pages, work, needs_server=False),
    ]
    watch = python("-m", "flows.console", "watch")
    parts.append(Part("watch", watch, work, needs_server=True))
    if plan.port is not None:
        serve = [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(plan.port)]
        env = server_environment(plan.port, plan.home)
        parts.insert(0, Part("server", serve, env, needs_server=False))
    return parts


def answers(api_url: str, within_s: float = 5.0) -> bool:
    """Whether a Prefect server answers there; also one that asks who we are, as Prefect Cloud."""
    try:
        answer = httpx.get(f"{api_url}/health", timeout=within_s)
        return answer.is_success or answer.status_code in (401, 403)
    except httpx.HTTPError:
        return False


def keep(plan: Plan) -> int:
    """Keep the parts of `plan` alive until this process is told to end."""
    try:
        # For as long as it lives, and released by the kernel where it dies.
        with FileLock(plan.folder / "keeper.lock", timeout=0):
            processes, parts = Processes(plan.folder), parts_of(plan)
            itself = psutil.Process()
            processes.write_down("keeper", itself.pid, itself.cmdline())
            while True:
                for part in parts:
                    part.look(processes, plan)
                time.sleep(LOOK_EVERY_S)
    except Timeout:
        say("another keeper is at work")
        return 1


if __name__ == "__main__":
    sys.exit(keep(Plan.parse(sys.argv[1], os.environ)))
