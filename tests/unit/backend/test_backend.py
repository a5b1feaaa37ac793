"""Which server a run talks to, and what is said where none can be had."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from visual_r1.backend.backend import Backend, open_backend
from visual_r1.backend.endpoint import (
    IN_TURNS,
    Endpoint,
    checked_key,
    choose_kind,
    probe,
    remote_endpoint,
    unused_key_note,
)
from visual_r1.config import RunConfig
from visual_r1.errors import BackendError, ConfigError, CredentialError

KEY = {"TINKER_API_KEY": "tml-secret"}
URL = {"TINKER_BASE_URL": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environ", "kind"),
    [({}, "embedded"), (KEY, "hosted"), (URL, "self-hosted"), (KEY | URL, "self-hosted")],
)
def test_a_url_beats_a_key_and_a_key_beats_the_engine(environ: dict[str, str], kind: str) -> None:
    assert choose_kind(RunConfig(), environ) == kind


def test_the_quickstart_uses_the_engine_and_says_so() -> None:
    config = RunConfig(preset="quickstart")
    assert choose_kind(config, KEY | URL) == "embedded"
    note = unused_key_note(config, KEY)
    assert note is not None
    assert "TINKER_API_KEY set and not used" in note
    assert "secret" not in note
    assert unused_key_note(config, {}) is None
    assert unused_key_note(RunConfig(), KEY) is None


def test_a_url_in_the_configuration_counts() -> None:
    config = RunConfig.model_validate({"backend": {"base_url": "http://127.0.0.1:7"}})
    endpoint = remote_endpoint(config, KEY | URL)
    assert (endpoint.kind, endpoint.base_url) == ("self-hosted", "http://127.0.0.1:7")
    assert "secret" not in repr(endpoint)


@pytest.mark.parametrize("key", [None, ""])
def test_no_key_where_one_is_needed(key: str | None) -> None:
    with pytest.raises(CredentialError, match="TINKER_API_KEY is not set"):
        checked_key(key)


def test_a_key_of_the_wrong_form_is_not_shown() -> None:
    with pytest.raises(CredentialError, match="does not have the form") as raised:
        checked_key("sk-wrong-secret")
    assert "secret" not in str(raised.value)


def test_a_key_or_a_token_passes() -> None:
    assert checked_key("tml-abc") == "tml-abc"
    assert checked_key("a.b.c") == "a.b.c"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BackendError, match="not a server's address"):
        remote_endpoint(RunConfig(), KEY | {"TINKER_BASE_URL": url})


SECRETS = "http://user:hunter2@127.0.0.1:{port}/v2?token=hunter3"


def test_a_password_in_an_address_is_not_shown(closed_port: int) -> None:
    for url in (SECRETS.format(port=closed_port), SECRETS.format(port="x"), "user:hunter2@host"):
        with pytest.raises(BackendError) as raised:
            Backend(RunConfig(), KEY | {"TINKER_BASE_URL": url})
        assert "hunter" not in str(raised.value)
    assert "hunter" not in repr(Endpoint("self-hosted", SECRETS.format(port=1)))


def test_a_password_in_the_configuration_is_refused_for_that_is_stored_and_shown() -> None:
    config = RunConfig.model_validate({"backend": {"base_url": SECRETS.format(port=1)}})
    with pytest.raises(ConfigError, match="TINKER_BASE_URL") as raised:
        remote_endpoint(config, KEY)
    assert "hunter" not in str(raised.value)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_dead_port_is_found_before_anything_is_started(closed_port: int) -> None:
    began = time.monotonic()
    environ = KEY | {"TINKER_BASE_URL": f"http://127.0.0.1:{closed_port}"}
    with pytest.raises(BackendError, match="Nothing answers at"):
        Backend(RunConfig(), environ)
    assert time.monotonic() - began < 5


def test_a_server_that_accepts_and_never_answers_is_found_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(BackendError, match="did not answer within 5 s"):
            probe(Endpoint("self-hosted", f"http://127.0.0.1:{silent.getsockname()[1]}", "tml-x"))
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("said", "in_turns"),
    [
        ({IN_TURNS: True}, True),
        ({IN_TURNS: False}, False),
        ({IN_TURNS: "yes"}, False),
        ({"parallel_fwdbwd_chunks": True}, False),
    ],
)
def test_the_first_call_tells_whether_the_server_samples_and_trains_in_turns(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, object], in_turns: bool
) -> None:
    answer = httpx.Response(200, json=said)
    monkeypatch.setattr("visual_r1.backend.endpoint._first_call", lambda *_: answer)
    url = "http://127.0.0.1:1"
    assert probe(Endpoint("self-hosted", url, "tml-x")) is in_turns
    assert Backend(RunConfig(), KEY | {"TINKER_BASE_URL": url}).in_turns is in_turns


@pytest.fixture
def other_server() -> Iterator[str]:
    """Something that speaks HTTP and is not a Tinker server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_is_not_tinker_is_named(other_server: str) -> None:
    with pytest.raises(BackendError, match=r"is not a Tinker server .*status 501"):
        Backend(RunConfig(), KEY | {"TINKER_BASE_URL": other_server})


def test_the_backend_of_a_process_is_opened_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = RunConfig.model_validate(
        {"preset": "quickstart", "output_dir": str(tmp_path_factory.mktemp("out"))}
    )
    with open_backend(config) as outer, open_backend(config) as inner:
        assert inner is outer
    with open_backend(config) as later:
        assert later is not outer


@pytest.mark.parametrize(
    "other",
    [
        {"run": {"name": "another"}},
        {"backend": {"server": "embedded", "threads": 2}},
        {"backend": {"server": "embedded", "engine_home": "elsewhere"}},
        {"model": {"name": "some/other-model"}},
    ],
)
def test_another_run_model_or_server_has_a_backend_of_its_own(
    tmp_path: Path, other: dict[str, object]
) -> None:
    given = {"preset": "quickstart", "output_dir": str(tmp_path)}
    with open_backend(RunConfig.model_validate(given)) as outer:
        with open_backend(RunConfig.model_validate(given | other)) as inner:
            assert inner is not outer
        with open_backend(RunConfig.model_validate(given)) as again:
            assert again is outer
