"""A Prefect server, a worker and the watch, as `make up` runs them; each can be killed by itself.

What a test tries once and `benchmarks/power_cuts.py` at length.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from flows.operating.environment import SERVER
from trials.programs import ROOT, clean_environment

Part = Literal["server", "worker", "watch"]
PARTS: tuple[Part, ...] = ("server", "worker", "watch")
POOL = "trial"
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
BUSY = 503
CLOCK_S = 1.0  # a process's start is known to a clock tick, and a boot time to a second
_MARK = "VISUAL_R1_TRIAL"


@dataclass
class Operated:
    """The three in `folder`, with the Prefect home `home`; nothing of them outlives the block."""

    folder: Path
    home: Path
    _running: dict[Part, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.mark = secrets.token_hex(8)
        self.env = (
            clean_environment()
            | SERVER
            | {
                "PYTHONPATH": str(ROOT),
                "PREFECT_HOME": str(self.home),
                "PREFECT_API_URL": self.api,
                "PREFECT_LOCAL_STORAGE_PATH": str(self.folder / "results"),
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                _MARK: self.mark,
            }
        )
        self._client = httpx.Client(base_url=self.api, timeout=60)

    def __enter__(self) -> "Operated":
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()
        self._client.close()

    # The processes.

    def start(self, *parts: Part) -> None:
        """Start those that do not run (default: all); the server answers afterwards."""
        prefect = (sys.executable, "-m", "prefect")
        worker = f"visual-r1 on {socket.gethostname()}"
        commands: dict[Part, tuple[str, ...]] = {
            "server": (*prefect, "server", "start", "--port", str(self.port)),
            "worker": (*prefect, "worker", "start", "-p", POOL, "--type", "process", "-n", worker),
            "watch": (sys.executable, "-m", "flows.console", "watch"),
        }
        for part in parts or PARTS:
            if part in self._running and self._running[part].poll() is None:
                continue
            with (self.folder / f"{part}.log").open("ab") as log:
                self._running[part] = subprocess.Popen(
                    commands[part],
                    cwd=ROOT,
                    env=self.env,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            if part == "server":
                self.until(self.answers, "the server answers")

    def answers(self) -> bool:
        """Whether the server does."""
        assert self._running["server"].poll() is None, self.log("server")
        with suppress(httpx.HTTPError):
            return self._client.get("/health").is_success
        return False

    def log(self, part: Part) -> str:
        """All that it printed."""
        return (self.folder / f"{part}.log").read_text(errors="replace")

    def kill(self, *parts: Part) -> None:
        """SIGKILL those, and nothing that they started."""
        for part in parts:
            process = self._running.pop(part)
            process.kill()
            process.wait()

    def cut_power(self) -> None:
        """SIGKILL all that was started here, whoever started it, at once."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(_MARK) == self.mark:
                    process.kill()
        for process in self._running.values():
            process.wait()
        self._running.clear()

    def flow_process(self, flow_run: str) -> psutil.Process | None:
        """The process that works on it."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                is_of_it = process.environ().get("PREFECT__FLOW_RUN_ID") == flow_run
                if is_of_it and "prefect.engine" in process.cmdline():
                    return process
        return None

    # The server's records.

    def deploy(
        self, entrypoint: str, name: str, *, restart: bool = True, pool: str | None = POOL
    ) -> str:
        """A deployment of a flow of this project; its id. The worker makes the pool."""
        if pool is not None:
            self.until(lambda: self._client.get(f"/work_pools/{pool}").is_success, "a pool")
        flow = self._ask("POST", "/flows/", {"name": entrypoint.rpartition(":")[2]})
        directory = "prefect.deployments.steps.set_working_directory"
        return self._ask(
            "POST",
            "/deployments/",
            {
                "name": name,
                "flow_id": flow["id"],
                "entrypoint": entrypoint,
                "work_pool_name": pool,
                "pull_steps": [{directory: {"directory": str(ROOT)}}],
                "tags": ["restart"] if restart else [],
                "enforce_parameter_schema": False,
            },
        )["id"]

    def run(self, deployment: str, **parameters: Any) -> str:
        """A flow run that the worker takes at once; its id."""
        path = f"/deployments/{deployment}/create_flow_run"
        return self._ask("POST", path, {"parameters": parameters})["id"]

    def state(self, flow_run: str) -> dict[str, Any]:
        """Its state: `type`, `name`, `message`."""
        return self._ask("GET", f"/flow_runs/{flow_run}")["state"]

    def set_state(self, flow_run: str, kind: str) -> None:
        """As a person does who cancels it (CANCELLING), or wishes it anew (SCHEDULED)."""
        state = {"type": kind, "name": kind.capitalize()}
        self._ask("POST", f"/flow_runs/{flow_run}/set_state", {"state": state, "force": True})

    @contextmanager
    def held_back(self) -> Generator[None]:
        """For the block the worker takes no flow runs; what it has goes on."""
        self._ask("PATCH", f"/work_pools/{POOL}", {"is_paused": True})
        try:
            yield
        finally:
            self._ask("PATCH", f"/work_pools/{POOL}", {"is_paused": False})

    def states(self, flow_run: str) -> list[tuple[str, str]]:
        """Type and message of all its states, oldest first."""
        found = self._ask("GET", f"/flow_run_states/?flow_run_id={flow_run}")
        found = sorted(found, key=lambda one: one["timestamp"])
        return [(one["type"], one["message"] or "") for one in found]

    def tasks(self, flow_run: str) -> list[tuple[str, str]]:
        """Name and name of the state of its task runs, oldest first."""
        wanted = {"flow_runs": {"id": {"any_": [flow_run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found = self._ask("POST", "/task_runs/filter", wanted)
        return [(one["name"], one["state_name"]) for one in found]

    def open_runs(self) -> list[str]:
        """Flow runs and task runs that are said to be at work."""
        wanted = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
        flows = self._ask("POST", "/flow_runs/filter", {"flow_runs": wanted})
        tasks = self._ask("POST", "/task_runs/filter", {"task_runs": wanted})
        return [one["name"] for one in (*flows, *tasks)]

    def ghosts(self) -> list[str]:
        """Flow runs and task runs that are said to be Running, and that no process works on.

        A flow run that another one has called, and a task run, are worked on by the process of the
        flow run that was deployed; what is Running since before that process began is not.
        """
        running = {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}
        flows = self._ask("POST", "/flow_runs/filter", {"flow_runs": running})
        tasks = self._ask("POST", "/task_runs/filter", {"task_runs": running})
        found: list[str] = []
        for run in (*flows, *tasks):
            process = self.flow_process(self._deployed(run))
            since = datetime.fromisoformat(run["state"]["timestamp"]).timestamp()
            if process is None or since < process.create_time() - CLOCK_S:
                found.append(run["name"])
        return found

    def _deployed(self, run: dict[str, Any]) -> str:
        """The id of the flow run at the top, beneath which a flow run or task run stands."""
        above = run.get("parent_task_run_id")
        if above is not None:
            return self._deployed(self._ask("GET", f"/task_runs/{above}"))
        if (flow_run := run.get("flow_run_id")) is not None:
            return self._deployed(self._ask("GET", f"/flow_runs/{flow_run}"))
        return run["id"]

    def until(self, holds: Callable[[], object], what: str, within_s: float = 400.0) -> float:
        """Wait until `holds`; the seconds that it took."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < within_s, f"{what}: not within {within_s:.0f} s"
            time.sleep(0.1)
        return time.monotonic() - began

    def until_state(self, flow_run: str, *types: str, within_s: float = 400.0) -> float:
        """Wait until it is in one of those states (default: a final one)."""
        wanted = types or FINAL

        def is_there() -> bool:
            with suppress(httpx.HTTPError):
                return self.state(flow_run)["type"] in wanted
            return False

        return self.until(is_there, f"{flow_run} is {' or '.join(wanted)}", within_s)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        deadline = time.monotonic() + 60
        answer = self._client.request(method, path, json=body)
        while answer.status_code == BUSY and time.monotonic() < deadline:
            time.sleep(0.5)  # SQLite was locked; Prefect's own client asks again as well
            answer = self._client.request(method, path, json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None
