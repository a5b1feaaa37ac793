"""What people see of a run at Prefect: what it is called, what its lines say, who never waits."""

import io
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.names import validate_valid_asset_key
from pydantic import TypeAdapter, ValidationError

from tasks.records.artifacts import seconds_left, step_line, steps_table
from tasks.records.assets import LONGEST_KEY, asset
from tasks.records.ending import concluded
from tasks.records.logs import SentenceAlone
from tasks.records.names import artifact_key, first_name, flow_run_name, last_part, resource, tags
from tasks.records.sending import Sender, current, emit
from visual_r1.config import RunConfig
from visual_r1.errors import DataError
from visual_r1.printing import open_logger


def config(folder: Path = Path("/work"), name: str = "small", **sections: Any) -> RunConfig:
    given = {"preset": "quickstart", "run": {"name": name}, "output_dir": folder, **sections}
    return RunConfig.model_validate(given)


# Names.


def test_a_run_is_found_by_its_name_and_its_tags() -> None:
    one = config(data={"source": "/data/sets/geometry3k/"}, model={"name": "Qwen/Qwen3-VL-30B"})
    assert flow_run_name(one) == "small"
    assert flow_run_name(one, "evaluate step-40") == "small evaluate step-40"
    assert tags(one) == ["preset:quickstart", "model:Qwen3-VL-30B", "data:geometry3k"]
    assert last_part("hiyouga/geometry3k") == "geometry3k"
    assert resource(one)["visual-r1.run"] == "small"


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"preset": "geometry3k", "overrides": {"train.steps": 3}}, "train geometry3k"),
        ({"preset": "quickstart", "overrides": {"run.name": "mine"}}, "train mine"),
        ({"config": config()}, "train quickstart"),
        ({"preset": None, "overrides": "nonsense"}, "train"),
    ],
)
def test_a_flow_run_has_a_name_before_its_configuration_is_known(
    parameters: dict[str, Any], name: str
) -> None:
    assert first_name("train", parameters) == name


def test_artifact_keys_are_the_run_s_own_and_stay() -> None:
    keys = {
        artifact_key(config(folder, name), what)
        for folder in (Path("/one"), Path("/two"))
        for name in ("Run_1", "run-1", "Ünï / code"[:3], "x" * 200)
        for what in ("report", "steps")
    }
    assert len(keys) == 16
    for key in keys:  # as the server checks them
        ArtifactCreate(key=key, type="markdown", data="")
    assert artifact_key(config(), "report") == artifact_key(config(), "report")
    with pytest.raises(ValidationError):
        TypeAdapter(ArtifactCreate).validate_python({"key": "Run_1", "type": "markdown"})


def test_an_asset_has_a_key_that_prefect_takes_and_no_other_has() -> None:
    plain = "file:///runs/small/export/adapter"
    assert asset(plain, "small").key == plain
    odd = ["file:///a b", "file:///a-b", "file:///a%b", "file:///" + "x" * 600 + "1"]
    odd.append("file:///" + "x" * 600 + "2")
    keys = [validate_valid_asset_key(asset(address, "n").key) for address in odd]
    assert len(set(keys)) == len(odd)
    assert max(map(len, keys)) <= LONGEST_KEY + 9


# Lines and tables.


def row(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "updated": True, "seconds_total": 4.0, "reward_mean": 0.61234} | values


def test_a_step_is_a_line() -> None:
    said = step_line(row(36, accuracy=0.613, kl_sampler_learner=3.2e-5), 60, 92.0, 0.4567)
    assert said == (
        "step 36, 37 of 60: reward 0.612, accuracy 61.3%, KL 3.2e-05, 4.0 s; about 1 min 32 s of "
        "training left; $0.46 so far"
    )
    nothing = row(59, reward_mean=None, updated=False)
    assert step_line(nothing, 60, None, None) == (
        "step 59, 60 of 60: 4.0 s, no update, for no group had contrast"
    )


def test_the_time_that_is_left_is_that_of_the_last_steps() -> None:
    rows = [row(step, seconds_total=100.0 if step < 10 else 3.0) for step in range(20)]
    assert seconds_left(rows, 60) == pytest.approx(120.0)
    assert seconds_left(rows, 20) is None
    assert seconds_left([], 20) is None
    assert seconds_left([{"step": 0}], 20) is None  # of an earlier version


def test_the_table_has_the_last_steps_rounded() -> None:
    rows = [
        row(step, accuracy=1 / 3, groups=16, groups_without_contrast=4, reward_mean=-0.0001)
        for step in range(30)
    ]
    table = steps_table(rows)
    assert [one["step"] for one in table] == list(range(29, 9, -1))
    assert table[0]["accuracy"] == 0.333
    assert str(table[0]["reward"]) == "0.0"
    assert table[0]["with contrast"] == "12 of 16"
    assert "US dollars" not in table[0]
    assert steps_table([row(0, cost_usd=0.123456)])[0]["US dollars"] == 0.1235


# A mistake is a sentence.


@pytest.fixture
def engine_log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    written = io.StringIO()
    logger, handler = logging.getLogger("as.prefect"), logging.StreamHandler(written)
    rule = SentenceAlone()
    logger.addHandler(handler)
    logger.addFilter(rule)
    yield logger, written
    logger.removeHandler(handler)
    logger.removeFilter(rule)


def test_a_user_s_mistake_is_logged_once_and_without_its_stack(
    engine_log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, written = engine_log
    try:
        raise DataError("The source is empty.")
    except DataError as error:
        logger.exception("Encountered exception during execution: %r", error)
        logger.error("Engine execution exited with unexpected exception", exc_info=True)
    assert written.getvalue() == "The source is empty.\n"


def test_a_mistake_of_ours_keeps_its_stack(
    engine_log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, written = engine_log
    try:
        raise KeyError("bug")
    except KeyError:
        logger.exception("Encountered exception during execution")
    assert "Traceback" in written.getvalue()


def test_a_flow_s_function_by_itself_returns_and_raises_as_before() -> None:
    @concluded
    @flow(name="by itself")
    def work(bad: bool) -> int:
        if bad:
            raise DataError("The source is empty.")
        return 3

    assert work.fn(bad=False) == 3
    with pytest.raises(DataError):
        work.fn(bad=True)


# Nobody waits for Prefect.


def sender_to(port: int) -> Sender:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        return Sender()


def test_a_server_that_is_gone_costs_a_run_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        sender = sender_to(unused.getsockname()[1])
        began = time.monotonic()
        for _ in range(1000):  # and nothing piles up
            sender.put("progress", lambda client: client.hello().raise_for_status())
        assert time.monotonic() - began < 1
        sender.wait(0.2)
        with caplog.at_level(logging.WARNING, "visual_r1"):
            sender.close()
    [said] = caplog.messages
    assert "no record of this run's progress (ConnectError)" in said


def test_a_server_that_stands_still_is_left_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sender = sender_to(silent.getsockname()[1])
        sender.put("report", lambda client: client.hello().raise_for_status())
        with caplog.at_level(logging.WARNING, "visual_r1"):
            sender.close(within_s=0.5)
    [said] = caplog.messages
    assert "report (no answer)" in said


def test_the_newest_is_sent_and_what_fails_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.records.sending.AGAIN_AFTER_S", 0.01)
    sent: list[str] = []
    fails = iter([httpx.ConnectError("gone"), httpx.ReadTimeout("slow")])
    held = threading.Event()

    def first(_: object) -> None:
        assert held.wait(60)
        sent.append("first")

    sender = sender_to(1)  # nothing is asked of it
    sender.put("name", first)
    sender.put("progress", lambda _: sent.append("old"))
    sender.put("progress", lambda _: sent.append("new"))
    held.set()
    sender.wait(60)
    assert sent == ["first", "new"]

    def third(_: object) -> None:
        for error in fails:
            raise error
        sent.append("third")

    sender.put("report", third)
    sender.wait(60)
    assert sent == ["first", "new", "third"]
    sender.close()


def test_events_wait_for_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefect's own thread would try for seconds with each, and be waited for at the end."""
    monkeypatch.setattr("tasks.records.sending.AGAIN_AFTER_S", 0.01)
    heard: list[str] = []
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        sender = sender_to(unused.getsockname()[1])
        token = current.set(sender)
        try:
            emit("validated", lambda: heard.append("before"))
            sender.put("progress", lambda client: client.hello())
            deadline = time.monotonic() + 60
            while not sender.is_away:
                assert time.monotonic() < deadline
            for _ in range(2):
                emit("validated", lambda: heard.append("while it was away"))
        finally:
            current.reset(token)
        assert heard == ["before"]
        with caplog.at_level(logging.WARNING, "visual_r1"):
            sender.close()
    assert heard == ["before"]
    assert caplog.text.count("event validated (ConnectError)") == 1


def test_events_are_sent_when_the_server_is_back() -> None:
    heard: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    sender = sender_to(server.server_port)
    sender.is_away = True
    token = current.set(sender)
    emit("validated", lambda: heard.append("one"))
    emit("validated", lambda: heard.append("two"))
    current.reset(token)
    assert heard == []
    thread.start()
    sender.wait(60)
    sender.close()
    server.shutdown()
    server.server_close()
    assert heard == ["one", "two"]


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


def test_what_a_server_refuses_is_not_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def refused(_: object) -> None:
        asked.append("once")
        request = httpx.Request("POST", "http://127.0.0.1/api/artifacts/")
        answer = httpx.Response(422, request=request)
        raise PrefectHTTPStatusError("no", request=request, response=answer)

    sender = sender_to(1)
    sender.put("report", refused)
    sender.wait(60)
    with caplog.at_level(logging.WARNING, "visual_r1"):
        sender.close()
    assert asked == ["once"]
    assert "report (PrefectHTTPStatusError)" in caplog.text


def test_a_flows_log_has_what_is_said_before_its_record_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tasks.records import ending, logs

    heard: list[str] = []
    monkeypatch.setattr(logs.APILogHandler, "emit", lambda _, said: heard.append(said.getMessage()))
    context = SimpleNamespace(flow_run=SimpleNamespace(id=uuid4(), empirical_policy=None))
    monkeypatch.setattr(ending.FlowRunContext, "get", lambda: context)

    def work() -> None:
        open_logger("visual_r1.tasks").warning("Waits for another run.")

    ending.concluded(one := SimpleNamespace(fn=work, name="sweep"))
    one.fn()
    assert heard == ["Waits for another run."]
