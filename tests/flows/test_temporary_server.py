"""Prefect's temporary server: who may talk to it, and what comes of one that does not last."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tasks.first_database import cache_folder, copy_first, keep_first
from visual_r1.hashing import file_digest

ROOT = Path(__file__).parents[2]
BEGIN = """
import os, signal, sys, time
import httpx, psutil
from tasks.environment import settle_prefect
settle_prefect()
from tasks import temporary_server as module
from tasks.default_server import start_temporary_server, temporary_server
from visual_r1.errors import ConfigError
"""
REFUSED = """
try:
    start_temporary_server()
except ConfigError as error:
    print("refused:", error)
"""
STARTED = """
start_temporary_server()
server = temporary_server()
runs = f"{server.api_url}/flow_runs/filter"
process = psutil.Process(server.server_process.pid)
"""
TURNED_AWAY = """
page = {"Origin": "http://a-page.example"}
preflight = page | {"Access-Control-Request-Method": "POST"}
print("page", httpx.post(runs, json={}, headers=page).status_code)
print("null", httpx.post(runs, json={}, headers={"Origin": "null"}).status_code)
print("preflight", httpx.options(runs, headers=preflight).status_code)
print("shares", "access-control-allow-origin" in httpx.get(
    f"{server.api_url}/health", headers=page).headers)
print("no token", httpx.post(runs, json={}).status_code)
print("wrong token", httpx.post(runs, json={}, auth=("visual-r1", "guess")).status_code)
token = os.environ["PREFECT_API_AUTH_STRING"]
name, _, secret = token.partition(":")
print("this process", httpx.post(runs, json={}, auth=(name, secret)).status_code)
print("shown", any(secret in part for one in psutil.process_iter(["cmdline"])
                   for part in one.info["cmdline"] or []), secret in server.log.read_text())
print("read by", oct(os.stat(f"/proc/{process.pid}/environ").st_mode & 0o777))
"""
FOLLOWED = """
module.STANDS_STILL_S, module.ASK_EVERY_S, module.ANSWER_WITHIN_S = 3.0, 0.5, 1.0
from prefect import flow, task
name, _, secret = os.environ["PREFECT_API_AUTH_STRING"].partition(":")
@task
def work(): ...
@flow
def whole(number):
    before = server.server_process.pid, server.api_url
    os.kill(before[0], number)
    work()
    return before
for number in (signal.SIGKILL, signal.SIGSTOP):
    pid, url = whole(number)
    print(number.name, server.server_process.pid != pid, server.api_url == url)
    psutil.wait_procs([p for p in [process] if p.is_running()], timeout=10)
found = httpx.post(runs, json={}, auth=(name, secret)).json()
print([one["state_type"] for one in found])
print("whole server imported", "sqlalchemy" in sys.modules)
print("left", [one for one in psutil.Process().children() if one.status() == "stopped"])
"""
FINISHED_WITHOUT = """
from pathlib import Path
from prefect import flow
from flows.command import run_as_command
from tasks.outcome import remembered
from visual_r1.errors import DataError
module.MOST_PER_HOUR = 0
@remembered
@flow
def whole(config):
    server = temporary_server()
    os.kill(server.server_process.pid, signal.SIGKILL)
    # Answered when the loss was noticed: after the end of the work nobody would be told of it.
    assert httpx.get(f"{server.api_url}/health", timeout=120).status_code == 410
    print("the work is done")
    if sys.argv[1] == "failing":
        raise DataError("there is no such row.")
began = time.monotonic()
status = run_as_command(whole, ["--output-dir", "."], needs_server=False)
print("after", time.monotonic() - began < 60)
sys.exit(status)
"""


def run(
    folder: Path, program: str, *arguments: str, **variables: str
) -> "subprocess.CompletedProcess[str]":
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | variables
    return subprocess.run(
        [sys.executable, "-c", BEGIN + program, *arguments],
        cwd=folder,
        env=environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder with a Prefect home, the first of its user."""
    folder = tmp_path_factory.mktemp("used")
    assert run(folder, STARTED, XDG_CACHE_HOME=str(cache)).returncode == 0
    return folder


def test_the_next_home_of_a_user_begins_with_a_copy_of_the_first_database(
    used: Path, cache: Path, tmp_path: Path
) -> None:
    assert (used / ".visual-r1" / "prefect" / "prefect.db").exists()
    [kept] = (cache / "visual-r1").iterdir()
    with closing(sqlite3.connect(kept)) as database:
        assert database.execute("select count(*) from flow_run").fetchone() == (0,)
        database.execute("create table this_one (id)")
        database.commit()
    marked = kept.with_name(f"{kept.stem.rpartition('-')[0]}-{file_digest(kept)}.db")
    kept.rename(marked)
    assert run(tmp_path, STARTED, XDG_CACHE_HOME=str(cache)).returncode == 0
    own = tmp_path / ".visual-r1" / "prefect" / "prefect.db"
    with closing(sqlite3.connect(own)) as database:
        assert database.execute("select count(*) from this_one").fetchone() == (0,)


def test_a_kept_database_that_was_damaged_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = tmp_path / "made.db"
    with closing(sqlite3.connect(made)) as database:
        database.execute("create table flow_run (id)")
        database.execute("insert into flow_run values (1)")
        database.commit()
        keep_first(made)
        assert not list(cache_folder().iterdir()), "a run of somebody who began beside"
        database.execute("delete from flow_run")
        database.commit()
        keep_first(made)
        database.execute("create table later (id)")
        database.commit()
        keep_first(made)
    [kept] = cache_folder().iterdir()
    assert copy_first(tmp_path / "home" / "prefect.db")
    assert not copy_first(tmp_path / "home" / "prefect.db"), "one that is there stays"
    kept.write_bytes(kept.read_bytes()[:-1])
    assert not copy_first(tmp_path / "other" / "prefect.db")
    assert not kept.exists() and not list((tmp_path / "other").iterdir())


def test_a_server_that_cannot_start_is_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / ".visual-r1" / "prefect"
    home.mkdir(parents=True)
    (home / "prefect.db").write_text("no database at all")
    done = run(tmp_path, REFUSED)
    assert "refused: Prefect's temporary server ends as soon as it is started (status" in (
        done.stdout
    )
    assert "file is not a database" in done.stdout
    assert f"Its records in {home} may be damaged" in done.stdout
    assert done.stderr == ""


def test_a_home_that_is_no_folder_is_not_said_to_be_damaged(tmp_path: Path) -> None:
    home = tmp_path / "in the way"
    home.write_text("")
    done = run(tmp_path, REFUSED, PREFECT_HOME=str(home))
    assert "refused: Prefect's temporary server cannot be started: " in done.stdout
    assert f"File exists: '{home}'. Mend that, or choose another folder" in done.stdout
    assert "damaged" not in done.stdout
    assert done.stderr == ""


def test_one_that_stands_still_is_not_said_to_be_damaged(used: Path) -> None:
    program = """
from subprocess import Popen
class Stopped(Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        if "server_process.py" in str(args):
            self.send_signal(signal.SIGSTOP)
module.subprocess.Popen = Stopped
module.STANDS_STILL_S = 2.0
"""
    done = run(used, program + REFUSED)
    assert "refused: Prefect's temporary server does nothing for 2 s." in done.stdout
    assert "too busy" in done.stdout
    assert "damaged" not in done.stdout


def test_one_that_starts_slowly_is_waited_for(used: Path) -> None:
    done = run(used, "import logging; logging.basicConfig()\nmodule.SAY_SLOW_S = 0.5\n" + STARTED)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("starts slowly: it is at work, and this machine busy") == 1


def test_web_pages_and_strangers_are_turned_away(used: Path) -> None:
    done = run(used, STARTED + TURNED_AWAY)
    assert done.stdout.splitlines() == [
        "page 401",
        "null 401",
        "preflight 400",
        "shares False",
        "no token 401",
        "wrong token 401",
        "this process 200",
        "shown False False",
        "read by 0o400",
    ], done.stderr


def test_one_that_dies_or_stands_still_is_followed_by_another(used: Path) -> None:
    done = run(used, "import logging; logging.basicConfig()\n" + STARTED + FOLLOWED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["SIGKILL True True", "SIGSTOP True True"]
    assert done.stdout.splitlines()[-2:] == ["whole server imported False", "left []"]
    assert set(done.stdout.splitlines()[-3].strip("[]").split(", ")) == {"'COMPLETED'"}
    assert "ended (signal 9). Another one takes its place; the run loses nothing." in done.stderr
    assert "stood still for" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("how", "status"), [("finished", 0), ("failing", 1)])
def test_without_any_server_a_run_ends_as_its_work_ended(used: Path, how: str, status: int) -> None:
    done = run(used, FINISHED_WITHOUT, how)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines() == ["the work is done", "after True"]
    said = done.stderr.splitlines()
    assert "the run goes on without it" in " ".join(said)
    assert "Traceback" not in done.stderr
    assert "prefect._internal" not in done.stderr
    if how == "failing":
        assert said[-1] == "error: there is no such row."
