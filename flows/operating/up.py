"""`visual-r1 up` and `visual-r1 down`: the whole of the pipeline on this machine.

Up starts what does not run: a Prefect server (where Prefect's settings name none), a worker, the
runs' pages, and a keeper that starts again what dies; it creates the deployments and automations,
and changes nothing that a person set. Down ends what up started, and leaves all that was written.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from flows.command import show_error
from flows.operating.keeper import Plan, answers
from flows.operating.processes import Processes, python
from flows.operating.project import require_project, server_failures, use_server
from tasks.environment import require_prefect_server, users_settings
from tasks.own_server import WORKER_NAME, lead_here, lead_nowhere, server_folder
from visual_r1.backend.endpoint import without_secrets
from visual_r1.errors import ConfigError, VisualR1Error
from visual_r1.liveness import Progress
from visual_r1.printing import CommandParser, Terminal, say, terminal
from visual_r1.storage import read_sealed, require_room, write_json

SERVER_PORT, PAGES_PORT = 4200, 4280

STANDS_STILL_S = 120.0
SAY_SLOW_S = 45.0
LOST_AFTER = 3
"""A part that ended so often while it is waited for will not stay."""

END_WITHIN_S = 10.0


def up(arguments: Sequence[str] | None = None) -> int:
    """Start what does not run, and say where it is; the exit status."""
    parser = CommandParser(
        prog="visual-r1 up",
        description="Server, worker, pages, deployments and automations on this machine.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="stay until Ctrl-C or SIGTERM, then do what `down` does: for containers and systemd",
    )
    if not parser.parse_args(arguments).foreground:
        return _alone(_up)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = _alone(_up)
    if status == 0:
        with suppress(KeyboardInterrupt):
            while True:
                signal.pause()
        status = _alone(_down)
    return status


def down(arguments: Sequence[str] | None = None) -> int:
    """End what `up` started in this folder; the exit status."""
    parser = CommandParser(
        prog="visual-r1 down",
        description="End what `visual-r1 up` started in this folder. What was written stays.",
        allow_abbrev=False,
    )
    parser.parse_args(arguments)
    return _alone(_down)


def _alone(do: Callable[[Terminal, Path], None]) -> int:
    """Do it in the project's folder; two commands at once follow one another."""
    console, root = terminal(), Path.cwd().resolve()
    try:
        require_project(root)
        folder = server_folder(root)
        require_room(folder)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.sentence("another `make up` or `make down` is at work here; waiting for it.")
            lock.acquire()
        try:
            do(console, root)
        finally:
            lock.release()
    except VisualR1Error as error:
        show_error(console, error)
        return 1
    return 0


def _up(console: Terminal, root: Path) -> None:
    processes = Processes(server_folder(root))
    keeper = processes.living("keeper")
    plan = _running_plan(root, processes, keeper) if keeper else _new_plan(console, root, processes)
    if keeper is None:
        processes.start(
            "keeper",
            python("-m", "flows.operating.keeper", plan.as_text()),
            os.environ | plan.environment(),
            root,
        )
    try:
        _bring_up(console, root, plan, processes)
    except BaseException:  # Ctrl-C too: nothing is left half up
        if keeper is None:
            processes.end(END_WITHIN_S)
            lead_nowhere(root)
        raise


def _bring_up(console: Terminal, root: Path, plan: Plan, processes: Processes) -> None:
    """Wait for the parts in their order, and create what belongs on the server."""
    if plan.port is not None:
        _wait(console, processes, "server", lambda: answers(plan.api_url, 2.0))
    leads = plan.port is not None and lead_here(root, plan.api_url)
    use_server(root, plan.api_url)
    # Its module imports Prefect's client, which reads its settings then.
    from flows.operating.automations import create_automations
    from flows.operating.deploy import deploy
    from flows.operating.work_pool import is_online, open_work_pool

    def worker_is_there() -> bool:
        worker = processes.living("worker")
        return worker is not None and is_online(WORKER_NAME, worker.create_time())

    with server_failures(plan.api_url):
        open_work_pool()
        deploy(root)
        create_automations(root)
        _wait(console, processes, "worker", worker_is_there)
    _wait(console, processes, "pages", lambda: _listens(plan.pages_port))
    address = without_secrets(plan.api_url)
    say(f"server  {address.removesuffix('/api')}")
    from visual_r1.pages.command import address_of

    say(f"runs    {address_of(root, plan.pages_port)}")
    say(f"worker  {WORKER_NAME}; its log and the others are in {processes.folder}")
    if not leads:
        say(f"In each terminal first: export PREFECT_API_URL={address}")
    say("Try it: .venv/bin/prefect deployment run train/quickstart --watch")


def _running_plan(root: Path, processes: Processes, keeper: psutil.Process) -> Plan:
    """What the keeper that lives works by."""
    plan = Plan.parse(processes.table()["keeper"].command[-1], keeper.environ())
    named = _users_server(root, _remembered(processes).get("port"))
    if named is not None and named != plan.api_url:
        raise ConfigError(
            f"What runs here works for the server at {without_secrets(plan.api_url)}, and "
            f"Prefect's settings name {without_secrets(named)}: `make down` first, then `make up`."
        )
    return plan


def _new_plan(console: Terminal, root: Path, processes: Processes) -> Plan:
    """What to run: with the server that Prefect's settings name, or with one of our own."""
    remembered = _remembered(processes)
    named = _users_server(root, remembered.get("port"))
    port = None
    if named is not None:
        require_prefect_server()
    else:
        port = _port(console, processes, "server", remembered.get("port", SERVER_PORT))
    pages = _port(console, processes, "pages", remembered.get("pages_port", PAGES_PORT))
    ports = {"port": port or remembered.get("port", SERVER_PORT), "pages_port": pages}
    write_json(processes.folder / "address.json", ports)
    return Plan(root, processes.folder, named or f"http://127.0.0.1:{port}/api", port, pages)


def _users_server(root: Path, own_port: int | None) -> str | None:
    """The server that Prefect's settings name, unless it is the one of `make up`."""
    url = users_settings(root / ".visual-r1" / "prefect").api.url
    own = [f"http://{host}:{own_port}/api" for host in ("127.0.0.1", "localhost")]
    return None if url is None or url.rstrip("/") in own else url.rstrip("/")


def _remembered(processes: Processes) -> dict[str, int]:
    """The ports of the last time; what cannot be read is forgotten."""
    try:
        content: Any = read_sealed(processes.folder / "address.json").content
    except (OSError, ValueError):
        return {}
    return {name: port for name, port in dict(content).items() if isinstance(port, int)}


def _port(console: Terminal, processes: Processes, name: str, wanted: int) -> int:
    """The port for this part: the wanted one, or another where somebody else has it."""
    if processes.living(name) or _is_free(wanted):
        return wanted
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    console.sentence(
        f"port {wanted} is taken{_by_whom(wanted)}; the {name} is at {port} from now on.",
        "note",
        "yellow",
    )
    return port


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def _by_whom(port: int) -> str:
    """Who listens at `port`, where the system tells."""
    try:
        for one in psutil.net_connections("tcp"):
            if one.status != psutil.CONN_LISTEN or not one.laddr or not one.pid:
                continue
            if one.laddr.port == port:
                return f" by {psutil.Process(one.pid).name()} (process {one.pid})"
    except psutil.Error:
        pass
    return ""


def _wait(console: Terminal, processes: Processes, name: str, is_there: Callable[[], bool]) -> None:
    """Wait for a part, however busy the machine is.

    Raises `ConfigError` where it ends again and again, or stands still.
    """
    began, said = time.monotonic(), False
    seen: dict[int, Progress] = {}
    while not is_there():
        part = processes.living(name)
        if part is not None:
            progress = seen.setdefault(part.pid, Progress(part.pid))
            still = progress.seconds_without() > STANDS_STILL_S
        else:
            still = time.monotonic() - began > STANDS_STILL_S and not seen
        if still or len(seen) > LOST_AFTER:
            what = "does nothing" if still else "ends as soon as it is started"
            raise ConfigError(
                f"The {name} {what}: it wrote {processes.last_words(name)!r}, and "
                f"{processes.log(name)} says more."
            )
        if time.monotonic() - began > SAY_SLOW_S and not said:
            said = True
            console.sentence(f"the {name} starts slowly: this machine is busy. It is waited for.")
        time.sleep(0.2)


def _down(_: Terminal, root: Path) -> None:
    processes = Processes(server_folder(root))
    began = time.monotonic()
    ended = processes.end(END_WITHIN_S)
    lead_nowhere(root)
    if not ended:
        say("Nothing of `make up` runs here.")
        return
    took = time.monotonic() - began
    say(f"Ended within {took:.0f} s: {', '.join(ended)}. What was written stays.")
