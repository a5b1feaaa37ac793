"""Mistakes of a user, through the command: one sentence, a status of 1, and nothing is lost.

The first half is found before Prefect starts, so there a flow that must not run stands in for it.
"""

import http.server
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import pytest

from flows.command import run_as_command
from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.config.command_line import load_config
from visual_r1.engine.launch import RunningEngine, start_engine
from visual_r1.errors import RequestRefused
from visual_r1.models import TINY_GEOMETRY
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.goal import require_goal
from visual_r1.runs.ledger import LedgerRow

KEY = "tml-a-key-that-nobody-may-see"
NOON = "2026-05-01T12:00:00+00:00"

Command = Callable[..., str]


def never(config: RunConfig) -> None:
    pytest.fail(f"the flow was started with {config}")


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command with some flags; the sentence on stderr with which it was refused."""
    for name in list(os.environ):
        if name.startswith(("TINKER_", "PREFECT_")):
            monkeypatch.delenv(name)
    # The command takes over the library's log; other tests want to see it.
    logger = logging.getLogger("visual_r1")
    monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    monkeypatch.setattr(logger, "propagate", logger.propagate)

    def run(*flags: str) -> str:
        given = ["--output-dir", str(tmp_path), *flags]
        assert run_as_command(never, given, check=require_goal) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = printed.err.splitlines()
        assert len(lines) == 1, printed.err
        assert lines[0].startswith("error: ")
        assert KEY not in printed.err
        return lines[0].removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--train.loss", "pppo"), ("'pppo'", "'importance_sampling', 'ppo'", "ppo is nearest")),
        (("--prompt.template", "nope"), ("nope", "think")),
        (("--data.source", "/nowhere"), ("--data.source /nowhere is not there", "procedural")),
        (("--preset", "nope"), ("'nope'", "geometry3k, quickstart, seed")),
        (("--train.stepz", "3"), ("--train.stepz", "--train.steps?")),
        (("--train.steps", "0"), ("train.steps = '0'", "greater than or equal to 1")),
        (("--config", "/nowhere.toml"), ("Cannot read the configuration /nowhere.toml",)),
        (("--run.name", "../elsewhere"), ("run.name", "../elsewhere")),
        (("--run.name", ""), ("run.name",)),
        (("--run.name", "n-{day}"), ("{day}", "{date} and {n}")),
        (("--logging.wandb", "false"), ("takes no value", "--no-logging.wandb")),
        (("--train.steps", "1e3"), ("'1e3'", "write 1000")),
        (("--reward.custom", "brevity.py:few_words"), ("a module is wanted", "brevity:few_words")),
    ],
)
def test_a_setting_that_cannot_be(
    refused: Command, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    sentence = refused(*flags)
    assert all(word in sentence for word in words), sentence
    assert list(tmp_path.iterdir()) == []  # a mistake leaves no run behind


def test_a_file_of_settings_with_a_mistake(refused: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nsteps = 3\nsteps = 4\n")
    sentence = refused("--config", str(file))
    assert f"{file} is not valid TOML" in sentence
    assert "line 3" in sentence


def test_a_source_that_holds_nothing(refused: Command, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    sentence = refused("--data.source", str(empty))
    assert str(empty) in sentence
    assert "Parquet" in sentence


def test_an_output_folder_that_cannot_be_written(refused: Command, tmp_path: Path) -> None:
    # (root may write anywhere, so a file stands where the folder should be)
    (tmp_path / "runs").write_text("in the way")
    sentence = refused()
    assert str(tmp_path / "runs") in sentence
    assert "--output-dir" in sentence
    assert (tmp_path / "runs").read_text() == "in the way"


def test_a_folder_of_state_that_cannot_be_written(refused: Command, tmp_path: Path) -> None:
    (tmp_path / ".visual-r1").write_text("in the way")
    sentence = refused()
    assert str(tmp_path / ".visual-r1") in sentence
    assert "--output-dir" in sentence


def test_no_key_where_one_is_needed(refused: Command) -> None:
    sentence = refused("--preset", "geometry3k", "--backend.server", "remote")
    assert "TINKER_API_KEY is not set" in sentence
    assert "--preset quickstart" in sentence


def test_a_key_of_the_wrong_form(refused: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "sk-secret")
    sentence = refused("--preset", "geometry3k")
    assert "does not have the form of a Tinker key (9 characters" in sentence
    assert "secret" not in sentence


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The folder of a run named mine, with checkpoints of steps 4 and 8."""
    with open_run_folder(
        load_config(["--output-dir", str(tmp_path), "--run.name", "mine"])
    ) as made:
        rows = [
            LedgerRow(s, "tinker://a", "tinker://b", None, "c", "d", "embedded", NOON, s)
            for s in (4, 8)
        ]
        (made / "ledger.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return made


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--train.learning_rate", "0.5"),
            ("train.learning_rate (there", "Set them back", "--run.name"),
        ),
        (("--train.steps", "6"), ("trained 8 steps already", "8 or more", "--run.name")),
        (("--train.resume_from_step", "6"), ("no checkpoint of step 6", "0 (start over)", "4, 8")),
    ],
)
def test_what_does_not_go_with_the_run_that_is_there(
    refused: Command, run_dir: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = {path: path.read_bytes() for path in run_dir.glob("[!.]*.json*")}
    sentence = refused("--run.name", "mine", *flags)
    assert all(word in sentence for word in words), sentence
    # Besides, the folder says how its last start ended.
    after = {path: path.read_bytes() for path in run_dir.glob("[!.]*.json*")}
    assert {**after, run_dir / "config.json": b""} == {**before, run_dir / "config.json": b""}


def test_a_damaged_row_before_others(refused: Command, run_dir: Path) -> None:
    ledger = run_dir / "ledger.jsonl"
    damaged = ledger.read_text().replace("{", "[", 1)
    ledger.write_text(damaged)
    sentence = refused("--run.name", "mine")
    assert f"Row 1 of {ledger} is damaged" in sentence
    assert "put the file back from a copy" in sentence
    assert ledger.read_text() == damaged


def test_two_processes_on_one_run(refused: Command, tmp_path: Path) -> None:
    mine = load_config(["--output-dir", str(tmp_path), "--run.name", "mine"])
    with open_run_folder(mine):
        sentence = refused("--run.name", "mine")
    assert f"in use by another process (pid {os.getpid()})" in sentence


def test_a_damaged_configuration(refused: Command, run_dir: Path) -> None:
    (run_dir / "config.json").write_text("{")
    sentence = refused("--run.name", "mine")
    assert f"{run_dir / 'config.json'} is damaged" in sentence
    assert (run_dir / "config.json").read_text() == "{"


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A web server that has never heard of Tinker, and greets whoever calls."""

    def do_POST(self) -> None:
        body = b"<html>Welcome</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def elsewhere() -> Generator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def deaf() -> Generator[str]:
    """The address of something that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("nobody", "Nothing answers at"),
        ("deaf", "did not answer within 5 s"),
        ("elsewhere", "is not a Tinker server"),
    ],
)
def test_a_server_that_is_none(
    refused: Command,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    where: str,
    words: str,
) -> None:
    url: str = request.getfixturevalue(where)
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("TINKER_BASE_URL", url)
    before = time.monotonic()
    sentence = refused("--preset", "geometry3k")
    assert time.monotonic() - before < 5
    assert words in sentence
    assert url in sentence
    assert "TINKER_BASE_URL" in sentence


def test_what_is_no_address(refused: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:port")
    assert "http://host:port" in refused("--preset", "geometry3k")


@pytest.mark.parametrize("where", ["nobody", "deaf"])
def test_a_prefect_server_that_is_none(
    refused: Command,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    where: str,
) -> None:
    url: str = request.getfixturevalue(where)
    monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
    sentence = refused()
    assert f"{url}/api" in sentence
    assert "unset PREFECT_API_URL" in sentence


class Pages(http.server.BaseHTTPRequestHandler):
    """As a Prefect server: its pages at every address, its API beneath /api."""

    def do_GET(self) -> None:
        body = b"true" if self.path == "/api/health" else b"<html>Prefect</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.parametrize("path", ["", "/", "/dashboard", "/api/v1"])
def test_the_address_of_prefect_s_pages_in_place_of_its_api(
    refused: Command, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("PREFECT_API_URL", f"{url}{path}")
        sentence = refused()
        server.shutdown()
        thread.join()
    assert f"its API is at {url}/api: set PREFECT_API_URL to that" in sentence
    assert "in the environment" in sentence


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningEngine]:
    home = tmp_path_factory.mktemp("engine")
    with start_engine(home, TINY_GEOMETRY, 1, home / "engine.log") as running:
        yield running


def test_a_key_that_the_server_does_not_know(
    refused: Command, monkeypatch: pytest.MonkeyPatch, engine: RunningEngine
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    sentence = refused("--preset", "geometry3k")
    assert "does not accept the key in TINKER_API_KEY" in sentence
    assert engine.url in sentence


def test_a_model_that_the_server_does_not_offer(
    refused: Command, monkeypatch: pytest.MonkeyPatch, engine: RunningEngine
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", engine.api_key)
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    sentence = refused("--preset", "geometry3k", "--model.name", "some/model")
    assert "'some/model'" in sentence
    assert TINY_GEOMETRY in sentence
    assert "--model.name" in sentence


def test_a_disk_that_is_full_from_the_start(
    refused: Command, tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    with full_disk(100_000):
        sentence = refused()
    assert str(tmp_path) in sentence
    assert "free some space" in sentence
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_checkpoint_that_the_server_does_not_have(
    monkeypatch: pytest.MonkeyPatch, engine: RunningEngine
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", engine.api_key)
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    config = RunConfig(preset="geometry3k").model_dump()
    config["model"]["name"] = TINY_GEOMETRY
    backend = Backend(RunConfig.model_validate(config))
    for path in ("tinker://nope", "tinker://a:train:0/sampler_weights/b"):
        with pytest.raises(RequestRefused, match=f"no sampler of {path}: ") as caught:
            backend.sampler(path)
        assert "{" not in str(caught.value)  # the server's words, not the SDK's
    backend.close()
