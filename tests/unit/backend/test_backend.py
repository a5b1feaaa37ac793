"""Which server a run talks to, and what is said where none can be had."""

import base64
import email.utils
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from tinker.lib._auth_token_provider import (  # pyright: ignore[reportMissingTypeStubs]
    ApiKeyAuthProvider,
)

from visual_r1.backend.backend import Backend, open_backend
from visual_r1.backend.endpoint import (
    IN_TURNS,
    Endpoint,
    _say_of_white_space,  # pyright: ignore[reportPrivateUsage]
    checked_key,
    choose_kind,
    probe,
    remote_endpoint,
    retry_after_s,
    unused_key_note,
)
from visual_r1.backend.recovery import PATIENT_PAUSES_S, Recoveries
from visual_r1.config import STORED, RunConfig
from visual_r1.config.command_line import load_config
from visual_r1.config.overrides import laid_over, with_overrides
from visual_r1.errors import BackendError, ConfigError, CredentialError, ServerBusy

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


@pytest.mark.parametrize("preset", ["quickstart", "vision_sr1", "geometry3k"])
def test_an_address_that_is_given_is_used_whatever_the_preset_runs_on(preset: str) -> None:
    given = ["--preset", preset, "--backend.base_url", "http://cluster:8000"]
    overrides = {"backend.base_url": "http://cluster:8000"}
    for config in (load_config(given), with_overrides(preset, overrides)):
        assert choose_kind(config, {}) == "self-hosted"
        assert remote_endpoint(config, KEY).base_url == "http://cluster:8000"


def test_an_address_beside_the_embedded_engine_is_a_contradiction() -> None:
    both = {"backend.server": "embedded", "backend.base_url": "http://cluster:8000"}
    with pytest.raises(ConfigError, match=r"set backend\.server to auto"):
        with_overrides("geometry3k", both)
    with pytest.raises(ConfigError, match="names a server"):
        load_config(["--backend.base_url", "http://cluster:8000", "--backend.server", "embedded"])


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_address_moves_no_run_to_the_hosted_service(empty: str) -> None:
    with pytest.raises(ConfigError, match=r"backend\.base_url is empty"):
        load_config(["--preset", "geometry3k", f"--backend.base_url={empty}"])
    with pytest.raises(ConfigError, match=r"backend\.base_url is empty"):
        with_overrides("geometry3k", {"backend.base_url": empty})


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        ({"server": "embedded", "base_url": "http://cluster:8000"}, "embedded"),
        ({"server": "auto", "base_url": ""}, "hosted"),
    ],
)
def test_a_run_that_was_stored_with_an_ignored_address_stays_where_it_was(
    stored: dict[str, str], kind: str
) -> None:
    then = RunConfig(preset="quickstart").model_dump(mode="json")
    then["backend"] |= stored
    config = RunConfig.model_validate(then, context=STORED)
    assert choose_kind(config, KEY) == kind
    # Gone on with, it is a configuration like any other.
    again = laid_over(config, {"train.steps": 70})
    assert choose_kind(again, KEY) == kind


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
    token = json_web_token({"exp": time.time() + 60})
    assert checked_key(token) == token
    assert ApiKeyAuthProvider(token).api_key == token  # as the SDK has it


def json_web_token(claims: object) -> str:
    """An unsigned one with these claims."""
    head, body = ({"alg": "none"}, claims)
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in (head, body)]
    return ".".join(part.rstrip("=") for part in (*parts, "c2lnbmF0dXJl"))


@pytest.mark.parametrize("around", ["{}\n", " {}", "{} ", "{}\r\n", "\t{}\u00a0"])
def test_white_space_around_a_key_is_left_out_and_said_once(
    around: str, caplog: pytest.LogCaptureFixture
) -> None:
    _say_of_white_space.cache_clear()
    environ = URL | {"TINKER_API_KEY": around.format("tml-wrapped-secret")}
    for _ in range(2):
        assert remote_endpoint(RunConfig(), environ).api_key == "tml-wrapped-secret"
    assert [record.getMessage() for record in caplog.records] == [
        "TINKER_API_KEY has white space around it, which is left out."
    ]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("tml-…", "character 5 of its 5 is no printable ASCII"),
        ("tml-hunter\x00two", "character 11 of its 14 is no printable ASCII"),
        ("tml-hunter two", "character 11 of its 14 is white space"),
        ("tml-hun\nter", "character 8 of its 11 is white space"),
        ("tml-", "does not have the form"),
        ("'tml-hunter'", "does not have the form"),
        ("my.hunter.here", "does not have the form"),
        ("eyJ.hunter.x", "starts like a JWT"),
        ("eyJhunter", "starts like a JWT"),
        (" \n", "TINKER_API_KEY is not set"),
    ],
)
def test_what_cannot_be_a_key_is_refused_before_it_is_sent(key: str, says: str) -> None:
    with pytest.raises(CredentialError, match=says) as raised:
        remote_endpoint(RunConfig(), URL | {"TINKER_API_KEY": key})
    assert "hunter" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"exp": 1.0}, "has expired"),
        ({"sub": "hunter"}, "says when it expires"),
        ({"exp": "soon"}, "says when it expires"),
        (["exp"], "says when it expires"),
    ],
)
def test_a_token_that_the_sdk_would_refuse_later_is_refused_now(claims: object, says: str) -> None:
    with pytest.raises(CredentialError, match=says):
        checked_key(json_web_token(claims))


def test_an_address_with_white_space_around_it_is_that_address() -> None:
    environ = KEY | {"TINKER_BASE_URL": " http://127.0.0.1:9\n"}
    assert remote_endpoint(RunConfig(), environ).base_url == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "http://a b", "http://a\nb:80"]
)
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


class Told(http.server.BaseHTTPRequestHandler):
    """Answers each call as the next of `answers` says, and the last one from then on."""

    answers: ClassVar[list[tuple[int, dict[str, str], object]]] = []
    asked: ClassVar[list[float]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Told.asked.append(time.monotonic())
        status, headers, said = Told.answers.pop(0) if len(Told.answers) > 1 else Told.answers[0]
        body = json.dumps(said).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def told_server() -> Iterator[str]:
    Told.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Told)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_repeats_the_key_does_not_have_it_said(told_server: str) -> None:
    said = {"detail": "no such key tml-hunter2-secret, see http://me:hunter3@there/"}
    Told.answers = [(400, {}, said)]
    with pytest.raises(BackendError, match="status 400") as raised:
        probe(Endpoint("self-hosted", told_server, checked_key("tml-hunter2-secret")))
    assert "hunter" not in str(raised.value) + repr(raised.value)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_not_called_a_wrong_one(told_server: str, status: int) -> None:
    Told.answers = [(status, {}, {})]
    with pytest.raises(ServerBusy, match=f"is busy .status {status}.") as raised:
        probe(Endpoint("self-hosted", told_server, "tml-x"))
    assert "TINKER_BASE_URL" not in str(raised.value)
    assert raised.value.retry_after_s is None


def test_a_start_waits_for_a_busy_server_as_long_as_it_asks_for(
    told_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    Told.answers = [(429, {"Retry-After": "37"}, {}), (503, {}, {}), (200, {}, {IN_TURNS: True})]
    # A server that says nothing is asked three times in a row before it counts as busy.
    Told.answers[1:2] *= 3
    pauses: list[float] = []
    recoveries = Recoveries(12, patient=True, pause=pauses.append)
    assert probe(Endpoint("self-hosted", told_server, "tml-x"), recoveries) is True
    assert pauses == [37.0, PATIENT_PAUSES_S[1]]
    assert f"{told_server} is busy (status 429) and asks to be asked again in 37 s" in caplog.text
    assert "Recovering: the first call is made again in 37 s." in caplog.text


def test_a_backend_waits_for_it_too(told_server: str) -> None:
    Told.answers = [(429, {"Retry-After": "0"}, {}), (200, {}, {IN_TURNS: True})]
    assert Backend(RunConfig(), KEY | {"TINKER_BASE_URL": told_server}).in_turns
    between = Told.asked[1] - Told.asked[0]
    assert PATIENT_PAUSES_S[0] <= between < PATIENT_PAUSES_S[0] + 2


def test_a_start_that_waits_for_a_wrong_server_does_not(told_server: str) -> None:
    Told.answers = [(404, {}, {})]
    with pytest.raises(BackendError, match="not a Tinker server"):
        probe(Endpoint("self-hosted", told_server, "tml-x"), Recoveries(12, pause=pytest.fail))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "5"}, 5.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        # The server's own clock, which may be far from ours.
        (
            {
                "Retry-After": "Mon, 03 Feb 2020 05:00:30 GMT",
                "Date": "Mon, 03 Feb 2020 05:00:00 GMT",
            },
            30.0,
        ),
        ({"Retry-After": "Mon, 03 Feb 2020 05:00:00 GMT"}, 0.0),
    ],
)
def test_when_a_server_wants_to_be_asked_again(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_s(headers) == seconds


def test_a_date_counts_from_now_where_the_server_has_no_clock() -> None:
    then = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert retry_after_s({"Retry-After": then}) == pytest.approx(100, abs=5)


def test_ctrl_c_ends_the_wait_for_a_busy_server(told_server: str) -> None:
    Told.answers = [(429, {"Retry-After": "600"}, {})]
    program = (
        "from tasks.interruption import listen; listen()\n"
        "from flows.command import first_look\n"
        f"first_look(['--preset', 'first_try', '--backend.base_url', {told_server!r}])"
    )
    environ = {**os.environ, "TINKER_API_KEY": "tml-hunter2-secret", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=environ,
        # What these tests run in may ignore it, as what is started in the background does.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = ""
        # The line may be wrapped, to whatever a pipe counts as.
        while "10 min 0 s" not in said and "Recovering" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        try:
            said += process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "hunter" not in said


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
