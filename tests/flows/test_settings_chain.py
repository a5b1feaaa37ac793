"""Prefect's settings are those of its own chain, whoever of it names them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
