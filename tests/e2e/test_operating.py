"""`make up` in a folder of its own: what people set, secrets, automations, a power cut, down."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prefect_home import Give
from train_command import ROOT, clean_environment

from flows.operating.processes import MARK
from tasks.own_server import server_folder

NAME = "train/quickstart"
KEY = "tml-not-to-be-seen-anywhere"


class Project:
    """A folder with the flows of this one, and one deployment."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, *arguments: str, given: str = "") -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "flows.console", *arguments],
            cwd=self.root,
            env=clean_environment() | {"PYTHONPATH": str(ROOT)},
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stdout, done.stdout
        return done.returncode, done.stdout

    def done(self, *arguments: str, given: str = "") -> str:
        status, output = self.command(*arguments, given=given)
        assert status == 0, output
        return output

    @property
    def processes(self) -> dict[str, int]:
        content = json.loads((server_folder(self.root) / "processes.json").read_text())
        return {name: part["pid"] for name, part in content.items() if isinstance(part, dict)}

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.root / "deployments/prefect.yaml"
        content = yaml.safe_load(path.read_text())
        change(content["deployments"][0])
        path.write_text(yaml.safe_dump(content))

    def living(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(server_folder(self.root)):
                    found.append(process)
            except psutil.Error:
                continue
        return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]


class Api:
    """The server's REST interface, as the UI uses it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, **body: Any) -> Any:
        answer = httpx.request(method, f"{self.url}/api/{path}", timeout=60, **body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    @property
    def deployment(self) -> Any:
        return self.ask("GET", f"deployments/name/{NAME}")

    def set_state(self, run: str, type_: str, name: str) -> None:
        state = {"type": type_, "name": name, "message": "its accuracy fell"}
        self.ask("POST", f"flow_runs/{run}/set_state", json={"state": state, "force": True})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, give_home: Give) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "deployments", root / "deployments")
    (root / "flows").symlink_to(ROOT / "flows")
    path = root / "deployments/prefect.yaml"
    content = yaml.safe_load(path.read_text())
    wanted = ("quickstart", "flows/train_flow.py:train")
    named = [one for one in content["deployments"] if (one["name"], one["entrypoint"]) == wanted]
    path.write_text(yaml.safe_dump(content | {"deployments": named}))
    # A server with its tables made: making them takes half a minute of a test.
    give_home(root)
    server_folder(root).mkdir()
    (root / ".visual-r1/prefect").rename(server_folder(root) / "prefect")
    yield Project(root)
    Project(root).command("down")


@pytest.fixture(scope="module")
def api(project: Project) -> Api:
    """Up it is; the address is the one that it prints."""
    lines = dict(line.split(maxsplit=1) for line in project.done("up").splitlines() if " " in line)
    assert f"{NAME}" in lines
    with httpx.Client(follow_redirects=True, timeout=30) as browser:
        address, _, token = lines["runs"].partition("?token=")
        assert browser.get(address).status_code == 401
        assert "No run is here yet" in browser.get(lines["runs"]).text
        assert browser.get(address, headers={"Host": "evil.example"}).status_code == 400
    assert token not in (server_folder(project.root) / "pages.log").read_text()
    assert (project.root / "prefect.toml").read_text().count(lines["server"]) == 1
    return Api(lines["server"])


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_deploying_again_keeps_what_people_set(project: Project, api: Api) -> None:
    before = api.deployment
    (schedule,) = before["schedules"]
    assert not schedule["active"]
    parameters = before["parameters"] | {"overrides": {"train.steps": 6}}
    api.ask("PATCH", f"deployments/{before['id']}", json={"parameters": parameters})
    own = f"deployments/{before['id']}/schedules/{schedule['id']}"
    api.ask("PATCH", own, json={"active": True})

    def newer(entry: dict[str, Any]) -> None:
        entry["description"] = "Another description."
        entry["schedules"][0]["cron"] = "0 4 * * *"
        entry["parameters"]["overrides"] = {"train.steps": 9, "train.group_size": 4}

    project.edit(newer)
    said = project.done("deploy")
    assert "updated: " in said
    assert "train.steps = 6 (shipped: 9)" in said
    after = api.deployment
    assert after["description"] == "Another description."
    assert after["parameters"]["overrides"] == {"train.steps": 6, "train.group_size": 4}
    assert after["schedules"][0] | {"updated": ""} == schedule | {"active": True, "updated": ""}

    project.done("deploy", "--reset", NAME)
    reset = api.deployment
    assert reset["parameters"]["overrides"] == {"train.steps": 9, "train.group_size": 4}
    assert reset["schedules"][0]["schedule"]["cron"] == "0 4 * * *"
    assert [one["active"] for one in reset["schedules"]] == [False]
    status, said = project.command("deploy", "--reset", "train/nightmare")
    assert status == 1
    assert f"it has {NAME}" in said


def test_a_secret_is_on_the_server_and_shown_nowhere(project: Project, api: Api) -> None:
    said = project.done("secrets", "set", "tinker-api-key", given=f"{KEY}\n")
    said += project.done("secrets", "list")
    assert KEY not in said
    assert "tinker-api-key    on the server" in said
    status, said = project.command("secrets", "set", "tinker-api-key", given="two words")
    assert status == 1
    documents = api.ask("POST", "block_documents/filter", json={})
    assert KEY not in json.dumps(documents)

    # With a server that is no Tinker server, the doctor says where its key is from.
    flags = ("--no-measure", "--backend.base_url", api.url, "--output-dir", str(project.root))
    status, said = project.command("doctor", *flags)
    assert "TINKER_API_KEY from Secret block tinker-api-key" in " ".join(said.split())
    assert KEY not in said
    assert all(KEY.encode() not in path.read_bytes() for path in written(project))


CHOSEN = """
import json, os, sys
from pathlib import Path
from tasks.environment import settle_prefect
settle_prefect(Path.cwd())
from tasks.parameters import chosen_config
config = chosen_config("quickstart", json.loads(sys.argv[1]), None)
print(config.train.steps, config.train.group_size, os.environ.get("TINKER_API_KEY"))
"""


def test_a_variable_lies_beneath_what_a_deployment_gives(project: Project, api: Api) -> None:
    """And a run that asks for a paid server has its key from the block, no other has."""

    def chosen(overrides: dict[str, object], deployment: str | None) -> list[str]:
        env = clean_environment() | {"PYTHONPATH": str(ROOT)}
        if deployment:
            env["PREFECT__FLOW_RUN_ID"] = deployment  # as a worker's process has one
        done = subprocess.run(
            [sys.executable, "-c", CHOSEN, json.dumps(overrides)],
            cwd=project.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout.splitlines()  # Prefect may say that it sends what is left

    project.done("secrets", "set", "tinker-api-key", given=KEY)
    value: dict[str, object] = {"train.steps": 7, "train.group_size": 3}
    variable = {"name": "visual_r1_defaults", "value": value}
    api.ask("POST", "variables/", json=variable)
    ident = api.deployment["id"]
    assert "6 3 None" in chosen({"train.steps": 6}, ident)
    # On a terminal the variable counts for nothing.
    assert f"6 8 {KEY}" in chosen({"train.steps": 6, "backend.server": "remote"}, None)
    api.ask(
        "PATCH",
        "variables/name/visual_r1_defaults",
        json={"value": value | {"backend.server": "remote"}},
    )
    assert any("must not set backend.server" in line for line in chosen({}, ident))


def written(project: Project) -> Iterator[Path]:
    for path in project.root.rglob("*"):
        if path.is_file() and "flows" not in path.relative_to(project.root).parts[:1]:
            yield path


def test_automations_tell_hold_and_go_on(project: Project, api: Api) -> None:
    told: list[str] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """pytest has its own output."""

    with HTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/hook"
        project.done("secrets", "set", "notification-url", given=address)
        said = project.done("automations")
        assert said.count("created") == 2
        # A person pauses one of them, and it stays so.
        automations = api.ask("POST", "automations/filter", json={})
        reached = next(one for one in automations if "reached" in one["name"])
        api.ask("PATCH", f"automations/{reached['id']}", json={"enabled": False})
        assert "kept off as set by hand" in project.done("automations")
        assert len(api.ask("POST", "automations/filter", json={})) == len(automations)

        api.ask("PATCH", "work_pools/visual-r1", json={"is_paused": True})
        run = api.ask("POST", f"deployments/{api.deployment['id']}/create_flow_run", json={})["id"]
        api.set_state(run, "RUNNING", "Running")
        api.set_state(run, "FAILED", "PausedByAlarm")
        wait_for(lambda: told and api.deployment["paused"])
        assert "its accuracy fell" in told[0]
        assert f"{api.url}/runs/flow-run/{run}" in told[0]
        api.set_state(run, "SCHEDULED", "AwaitingRetry")  # the click on Retry
        wait_for(lambda: not api.deployment["paused"])
        api.set_state(run, "CANCELLED", "Cancelled")
        server.shutdown()


def as_set(deployment: dict[str, Any]) -> dict[str, Any]:
    """A deployment without what a worker's questions change."""
    asked = ("last_polled", "status", "updated", "updated_by")
    return {name: value for name, value in deployment.items() if name not in asked}


def test_a_power_cut_then_up_and_down(project: Project, api: Api) -> None:
    before, parts = as_set(api.deployment), project.processes
    assert {"keeper", "server", "worker", "pages"} <= parts.keys()
    os.kill(parts["worker"], signal.SIGKILL)
    wait_for(lambda: project.processes["worker"] != parts["worker"])  # the keeper's work
    for process in project.living():
        process.kill()
    wait_for(lambda: not project.living())

    both = [threading.Thread(target=project.done, args=("up",)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert as_set(api.deployment) == before  # at the same address, as it was
    parts = project.processes
    assert len({psutil.Process(pid).pid for pid in parts.values()}) == len(parts)

    began = time.monotonic()
    said = project.done("down")
    assert "Ended within" in said
    assert time.monotonic() - began < 60
    assert not project.living()
    assert not (project.root / "prefect.toml").exists()
    assert "Nothing of `make up` runs here." in project.done("down")
