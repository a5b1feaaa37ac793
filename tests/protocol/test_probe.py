"""`visual-r1 probe` against this engine, the same behind what older servers do, and a dead one."""

import json
import socket
import threading
from dataclasses import dataclass, replace

import httpx
import pytest
import tinker
from protocol_client import MODEL

from trials.fault_proxy import Change, FaultProxy, Rewrite, as_sent, unchanged
from visual_r1.backend.endpoint import Endpoint
from visual_r1.conformance.command import main
from visual_r1.conformance.examination import examine_server
from visual_r1.conformance.findings import CALLS, Report
from visual_r1.engine.launch import RunningEngine

MOST_SECONDS, MOST_TOKENS = 60, 20_000
WITHIN_S = 20.0


def report_of(engine: RunningEngine, url: str | None = None) -> Report:
    """The report, of a server on which the probe has left no checkpoint."""
    rest = tinker.RestClient(base_url=engine.url, api_key=engine.api_key)

    def checkpoints() -> set[str]:
        listed = rest.list_user_checkpoints(limit=1000).result(timeout=30).checkpoints
        return {one.tinker_path for one in listed}

    before = checkpoints()
    found = examine_server(Endpoint("self-hosted", url or engine.url, engine.api_key))
    assert checkpoints() == before
    assert not found.left
    assert found.seconds < MOST_SECONDS
    assert [one.call for one in found.findings] == list(CALLS)
    return found


def test_all_that_training_needs_works_with_this_engine(engine: RunningEngine) -> None:
    found = report_of(engine)
    wrong = {one.call.used_for: one.says for one in found.findings if one.verdict != "works"}
    assert not wrong
    assert found.trains and found.model == MODEL
    assert 500 < found.tokens.count < MOST_TOKENS
    assert all(one.seconds is not None for one in found.findings)


@dataclass(frozen=True)
class Older:
    """What a server does not do yet, and the first call at which that shows."""

    stops_at: str | None
    says: str
    off: frozenset[str] = frozenset()
    change: Change = unchanged
    rewrite: Rewrite = as_sent


def without_sequence_ids(path: str, answer: httpx.Response) -> httpx.Response:
    if not path.endswith("/asample") or not answer.is_success:
        return answer
    body = json.loads(answer.read())
    del body["sample_sequence_ids"]
    return httpx.Response(200, json=body)


def json_alone(path: str, answer: httpx.Response) -> httpx.Response:
    if "protobuf" not in answer.headers.get("content-type", ""):
        return answer
    return httpx.Response(200, json={"type": "sample", "sequences": []})


def no_protobuf(path: str, answer: httpx.Response) -> httpx.Response:
    if not path.endswith("/forward_backward"):
        return answer
    return httpx.Response(415, json={"detail": "Content-Type must be application/json"})


def no_vision(path: str, body: bytes) -> bytes:
    # What it takes for a picture is a kind of chunk that the engine refuses.
    return body.replace(b'"type":"image"', b'"type":"image_asset_pointer"')


def no_moments(path: str, body: bytes) -> bytes:
    return body.replace(b'"optimizer":true', b'"optimizer":false')


def keeps_what_is_deleted(path: str, answer: httpx.Response) -> httpx.Response:
    if not path.endswith("/weights_info") or answer.is_success:
        return answer
    return httpx.Response(200, json={"base_model": MODEL, "is_lora": True, "lora_rank": 16})


OLDER = {
    "no sequence_id": Older("sample", "sample_sequence_ids", change=without_sequence_ids),
    "results in JSON alone": Older("sample", "only supports as proto", change=json_alone),
    "data in JSON alone": Older("forward", "must be application/json", change=no_protobuf),
    "no vision": Older("sample, with a picture", "", rewrite=no_vision),
    "no optimizer in a state": Older(
        None, "", frozenset({"resuming as if never killed"}), rewrite=no_moments
    ),
    "no deletion": Older(
        None, "", frozenset({"backend.keep_checkpoints"}), change=keeps_what_is_deleted
    ),
}


@pytest.mark.parametrize("older", OLDER.values(), ids=OLDER)
def test_an_older_server_is_told_by_what_it_does_not_do(
    engine: RunningEngine, older: Older
) -> None:
    with FaultProxy(engine.url, 0, share=0, change=older.change, rewrite=older.rewrite) as proxy:
        found = report_of(engine, proxy.url)
    assert found.trains is (older.stops_at is None)
    broken = [one for one in found.findings if one.call.needed and one.verdict == "fails"]
    assert [one.call.name for one in broken[:1]] == [older.stops_at] * bool(older.stops_at)
    assert all(older.says in one.says for one in broken[:1]), broken[0].says
    if found.trains:
        off = {one.call.used_for for one in found.off}
        assert off == older.off


def test_a_server_that_hangs_costs_no_more_than_its_time(engine: RunningEngine) -> None:
    over = threading.Event()

    def hangs(path: str, answer: httpx.Response) -> httpx.Response:
        if path.endswith("/asample"):
            over.wait(120)
        return answer

    endpoint = Endpoint("self-hosted", "", engine.api_key)
    with FaultProxy(engine.url, 0, share=0, change=hangs) as proxy:
        found = examine_server(replace(endpoint, base_url=proxy.url), within_s=WITHIN_S)
        over.set()
    assert found.seconds < WITHIN_S + 10  # what is closed then has limits of its own
    verdicts = {one.call.name: one for one in found.findings}
    assert verdicts["sample"].verdict == "fails"
    assert verdicts["save_state, save_weights_for_sampler"].verdict == "not tried"
    assert f"the {WITHIN_S:.0f} s were over" in verdicts["compute_logprobs"].says
    assert not found.trains


def test_a_dead_server_is_found_within_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environ = {"TINKER_API_KEY": "tml-x"}
        assert main([url, "--json"], environ=environ) == 1
        found = json.loads(capsys.readouterr().out)
        assert (found["trains"], found["server"]) == (False, url)
        assert found["seconds"] < 10
        first, *others = found["calls"]
        assert first["verdict"] == "fails" and "Nothing answers at" in first["says"]
        assert {one["verdict"] for one in others} == {"not tried"}
        assert main([url], environ=environ) == 1
    said = capsys.readouterr()
    assert "Training cannot work with this server: client/config" in said.out


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        (["http://127.0.0.1:9"], {}, "TINKER_API_KEY is not set"),
        (["127.0.0.1:9"], {"TINKER_API_KEY": "tml-x"}, "not a server's address"),
        (["http://u:hunter2@h:x"], {"TINKER_API_KEY": "tml-x"}, "not a server's address"),
        (["http://127.0.0.1:9"], {"TINKER_API_KEY": "sk-hunter2"}, "does not have the form"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], environ: dict[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, environ=environ) == 1
    said = capsys.readouterr().err
    assert says in said and "hunter" not in said
    assert said.count("error: ") == 1


def test_a_model_that_is_not_there_names_those_that_are(
    engine: RunningEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"TINKER_API_KEY": engine.api_key}
    assert main([engine.url, "--model", "Qwen/Qwen3.6-35B-A3B"], environ=environ) == 1
    said = capsys.readouterr().out
    assert "not offered" in said and MODEL in said
