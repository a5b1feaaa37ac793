"""Prefect's settings are those of its own chain, whoever of it names them."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest

from visual_r1.errors import ConfigError

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os
from tasks.environment import prefect_server, settle_prefect, source_of
settle_prefect()
from prefect.settings import PREFECT_HOME, PREFECT_LOGGING_LEVEL
print(json.dumps({
    "server": prefect_server(), "source": source_of("PREFECT_API_URL"),
    "home": str(PREFECT_HOME.value()), "level": PREFECT_LOGGING_LEVEL.value(),
    "token": bool(os.environ.get("PREFECT_API_AUTH_STRING")),
}))
"""
URL = "http://127.0.0.1:9/api"
PROFILES = f"""
active = "mine"
[profiles.mine]
PREFECT_API_URL = "{URL}"
PREFECT_LOGGING_LEVEL = "WARNING"
[profiles.quiet]
PREFECT_LOGGING_LEVEL = "ERROR"
"""


def settled(folder: Path, **environ: str) -> dict[str, object]:
    """What Prefect sees in `folder`, with `home` there as the user's."""
    (folder / "home").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT), "HOME": str(folder / "home")} | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ended.stderr == ""
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("name", "text", "source"),
    [
        ("home/.prefect/profiles.toml", PROFILES, "profile 'mine' of "),
        (".env", f"PREFECT_API_URL={URL}\n", ".env"),
        ("prefect.toml", f'[api]\nurl = "{URL}"\n', "prefect.toml"),
        ("pyproject.toml", f'[tool.prefect.api]\nurl = "{URL}"\n', "pyproject.toml"),
    ],
)
def test_a_server_that_any_of_its_files_names_is_used(
    tmp_path: Path, name: str, text: str, source: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    found = settled(tmp_path)
    assert found["server"] == URL
    assert source in str(found["source"])
    assert found["home"] == str(tmp_path / "home" / ".prefect")
    assert not found["token"]


def test_the_environment_comes_first(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"PREFECT_API_URL={URL}\n")
    found = settled(tmp_path, PREFECT_API_URL="http://127.0.0.1:8/api")
    assert (found["server"], found["source"]) == ("http://127.0.0.1:8/api", "the environment")


def test_where_nobody_names_one_the_rest_of_the_profile_stays(tmp_path: Path) -> None:
    (tmp_path / "home" / ".prefect").mkdir(parents=True)
    (tmp_path / "home" / ".prefect" / "profiles.toml").write_text(PROFILES)
    found = settled(tmp_path, PREFECT_PROFILE="quiet")
    assert (found["server"], found["level"], found["token"]) == (None, "ERROR", True)
    assert found["home"] == str(tmp_path / ".visual-r1" / "prefect")


def test_nothing_is_made_in_the_home_of_who_has_no_prefect(tmp_path: Path) -> None:
    found = settled(tmp_path)
    assert found["home"] == str(tmp_path / ".visual-r1" / "prefect")
    assert not list((tmp_path / "home").iterdir())


def test_a_home_that_is_named_stays(tmp_path: Path) -> None:
    named = tmp_path / "named"
    assert settled(tmp_path, PREFECT_HOME=str(named))["home"] == str(named)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (".env", "PREFECT_LOGGING_LEVEL=LOUD", "LoggingSettings level is 'LOUD'"),
        ("prefect.toml", "[api", "invalid TOML"),
        ("prefect.toml", "[api]\nurl = 5", "APISettings url is 5"),
        ("pyproject.toml", "[tool", "invalid TOML"),
        ("home/.prefect/profiles.toml", "active = [", "Invalid value"),
    ],
)
def test_settings_that_cannot_be_read_end_in_a_sentence(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    ended = subprocess.run(
        [sys.executable, str(ROOT / "flows/train_flow.py"), "--no-logging.wandb"],
        cwd=tmp_path,
        env=kept | {"HOME": str(tmp_path / "home"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: Prefect's settings cannot be read: ")
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "is_refused"),
    [
        ("https://a.cloud/api/accounts/1/workspaces/2", False),
        ("https://a.cloud", True),
        ("https://b.server/api/v1", True),
    ],
)
def test_a_workspace_of_prefect_cloud_is_no_page(
    url: str, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import environment

    def get(asked: str, **_: object) -> httpx.Response:
        is_api = asked in {"https://a.cloud/api/health", "https://b.server/api/health"}
        return httpx.Response(200 if is_api else 404, text="true" if is_api else "{}")

    monkeypatch.setenv("PREFECT_CLOUD_API_URL", "https://a.cloud/api")
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr(environment.httpx, "get", get)
    with pytest.raises(ConfigError, match="its API is at") if is_refused else nullcontext():
        environment.require_prefect_server()


def test_a_server_that_asks_who_we_are_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.operating import keeper

    status = {"a": 200, "b": 401, "c": 404, "d": 502}
    monkeypatch.setattr(
        keeper.httpx, "get", lambda url, **_: httpx.Response(status[url.split("/")[2]])
    )
    assert [keeper.answers(f"http://{host}/api") for host in "abcd"] == [True, True, False, False]


def test_an_address_with_a_password_is_in_no_sentence(caplog: pytest.LogCaptureFixture) -> None:
    from tasks import outcome

    url = "http://me:secret@127.0.0.1:9/api"
    with pytest.raises(ConfigError) as refused, outcome.outcome_in_spite_of(url):
        raise httpx.ConnectError("refused")
    with outcome.outcome_in_spite_of(url):
        outcome._ends[:] = [None]
        raise httpx.ConnectError("refused")
    assert "127.0.0.1:9" in str(refused.value)
    assert "secret" not in str(refused.value) + caplog.text


def test_a_run_that_is_done_is_done_whatever_stands_in_the_servers_place() -> None:
    """A proxy's page, say, where Prefect's client expects its JSON."""
    from tasks import outcome

    with outcome.outcome_in_spite_of("http://127.0.0.1:9/api"):
        outcome._ends[:] = [None]
        httpx.Response(200, text="<html>maintenance</html>").json()
    mistake = ValueError("the run's own")
    with pytest.raises(ValueError, match="own"), outcome.outcome_in_spite_of(None):
        outcome._ends[:] = [mistake]
        raise mistake


def test_an_address_with_a_password_is_on_no_command_line(tmp_path: Path) -> None:
    from flows.operating.keeper import Plan

    plan = Plan(tmp_path, tmp_path, "http://me:secret@127.0.0.1:9/api", None, 4280)
    assert "secret" not in plan.as_text()
    assert Plan.parse(plan.as_text(), plan.environment()) == plan
    ours = Plan(tmp_path, tmp_path, "http://127.0.0.1:4200/api", 4200, 4280)
    assert Plan.parse(ours.as_text(), {}) == ours
