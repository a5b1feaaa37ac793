"""Bodies that nobody would send by mistake: refused in a sentence, and nobody else waits."""

import json
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import httpx
import pytest
from protocol_client import TOKENS, RawClient, datum
from tinker import types
from tinker.proto.request_conv import forward_backward_request_to_proto

from visual_r1.engine.launch import RunningEngine

POSTS = [
    "create_session",
    "session_heartbeat",
    "sessions/x/finish",
    "retrieve_future",
    "sessions/search",
    "create_model",
    "load_weights",
    "get_info",
    "optim_step",
    "save_weights",
    "save_weights_for_sampler",
    "save_weights_external",
    "create_sampling_session",
    "join_sampling_session",
    "asample",
    "cancel_future",
    "weights_info",
    "copy_weights",
    "forward_backward",
]
PUTS = ("sessions/x/project", "training_runs/abcdef12:train:0/checkpoints/weights/x/ttl")

DEEP = 100_000
NO_JSON = {
    "nothing": "",
    "a word": "yes",
    "a list": "[]",
    "null": "null",
    "a number": "1",
    "half": '{"session_id": "x"',
    "twice": "{} {}",
    "not a number": '{"seq_id": NaN}',
    "beyond": '{"seq_id": 1e999}',
    "below": '{"model_seq_id": -1e999, "session_id": "x"}',
    "huge": f'{{"seq_id": {"9" * 40}}}',
    "immense": f'{{"seq_id": {"9" * 5000}}}',
    "deep": '{"a": ' + "[" * 300 + "]" * 300 + "}",
    "bottomless": '{"a": ' + "[" * DEEP + "]" * DEEP + "}",
    "bottomless objects": '{"a":' * 3000 + "1" + "}" * 3000,
    "a lone surrogate": '{"session_id": "\\ud800"}',
    "the other half": '{"request_id": "x\\udfff"}',
    "a key": '{"\\udc00": 1}',
    "within": '{"user_metadata": {"a": ["\\ud83d"]}}',
    "control": '{"session_id": "\x01"}',
    "latin": b'{"session_id": "\xe9"}',
    "marked": b"\xef\xbb\xbf{}",
    "sixteen": '{"session_id": "x"}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_no_sound_json_is_refused_by_every_call(raw: RawClient, name: str) -> None:
    for method, paths in (("POST", POSTS), ("PUT", PUTS)):
        for path in paths:
            response = raw.http.request(method, path, content=NO_JSON[name])
            # Whether it is too much, unreadable, or of nothing that is here.
            if path != "forward_backward":
                assert response.status_code in (400, 413), (path, response.text)
                assert isinstance(response.json()["detail"], str)
            else:
                assert response.status_code in (200, 400, 413)


def sampling(raw: RawClient, number: int = 0) -> str:
    body = {"session_id": raw.session, "sampling_session_seq_id": number, "base_model": MODEL}
    sampler: str = raw.post("create_sampling_session", body)["sampling_session_id"]
    return sampler


MODEL = "visual-r1/tiny-geometry"
PROMPT = {"chunks": [{"type": "encoded_text", "tokens": list(TOKENS)}]}

ODD_SAMPLES: dict[str, dict[str, Any]] = {
    "temperature": {"sampling_params": {"temperature": 1e308}},
    "no number": {"sampling_params": {"max_tokens": "many"}},
    "negative": {"num_samples": -(2**63)},
    "too many": {"num_samples": 2**62},
    "token": {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [2**62]}]}},
    "tokens in words": {"prompt": {"chunks": [{"type": "encoded_text", "tokens": ["a"]}]}},
    "k": {"topk_prompt_logprobs": 2**62},
    "shape": {
        "target_prompt_logprobs": {"data": [1] * 5, "dtype": "int64", "shape": [-1, -5]},
    },
    "large shape": {
        "target_prompt_logprobs": {"data": [], "dtype": "int64", "shape": [2**62, 2**62]},
    },
    "last": {"prompt_logprobs_last_n": -(2**62), "prompt_logprobs": True},
    "image": {"prompt": {"chunks": [{"type": "image", "data": "AAAA", "format": "png"}]}},
    "no base64": {"prompt": {"chunks": [{"type": "image", "data": "\u00e9", "format": "png"}]}},
    "weights": {"sampling_session_id": None, "model_path": "\ufffe", "seq_id": None},
    "metadata": {"extra": {"a": [[[{}]]]}},
}


@pytest.mark.parametrize("name", ODD_SAMPLES)
def test_an_odd_sample_fails_its_future_as_the_user_s_own(raw: RawClient, name: str) -> None:
    body: dict[str, Any] = {
        "sampling_session_id": sampling(raw),
        "seq_id": 1,
        "num_samples": 1,
        "prompt": PROMPT,
        "sampling_params": {"max_tokens": 2},
    }
    answer = raw.post("asample", body | ODD_SAMPLES[name])
    result = raw.result(answer["request_id"])
    if name == "temperature":
        assert isinstance(result, types.SampleResponse)
    else:
        assert result["category"] == "user"
        assert result["error"]


@pytest.mark.parametrize("shape", [[-1, -5], [-5], [5, -1], [2**40, 2**40], [0], [1, 0, 5]])
def test_a_tensor_of_an_odd_shape_is_the_user_s_fault(raw: RawClient, shape: list[int]) -> None:
    model = raw.model()
    request = forward_backward_request_to_proto(
        types.ForwardBackwardRequest(
            types.ForwardBackwardInput(data=[datum()], loss_fn="cross_entropy"),
            model_id=model,
            seq_id=1,
        )
    )
    tensor = request.data[0].loss_fn_inputs["weights"]
    del tensor.shape[:]
    tensor.shape.extend(shape)
    sent = raw.http.post("forward_backward", content=request.SerializeToString())
    result = raw.result(sent.json()["request_id"])
    assert result["category"] == "user"
    assert "weights" in result["error"]


CROWDS = {
    "lists": b"[" + b"[]," * 20_000_000 + b"[]]",
    "numbers": b'{"a": [' + b"1," * 30_000_000 + b"1]}",
    "objects": b'{"a": [' + b"{}," * 20_000_000 + b"{}]}",
    "depth": b"[" * 60_000_000,
    "texts": b'{"a": [' + b'"",' * 20_000_000 + b'""]}',
    "names": b"{" + b'"a":1,' * 10_000_000 + b'"a":1}',
}


@pytest.mark.parametrize("name", CROWDS)
def test_sixty_megabytes_of_nothing_are_refused_and_heartbeats_go_on(
    engine: RunningEngine, raw: RawClient, name: str
) -> None:
    """They blocked the event loop for 48 s."""
    over = threading.Event()
    gaps: list[float] = []

    def beat() -> None:
        with httpx.Client(
            base_url=f"{engine.url}/api/v1",
            headers={"X-API-Key": engine.api_key},
            trust_env=False,
            timeout=60,
        ) as client:
            while not over.is_set():
                began = time.monotonic()
                client.post("session_heartbeat", json={"session_id": raw.session})
                gaps.append(time.monotonic() - began)
                time.sleep(0.01)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        refused = raw.http.post("asample", content=CROWDS[name])
    finally:
        over.set()
        beating.join()
    assert refused.status_code == 413
    assert "context has 4096 tokens" in refused.json()["detail"]
    assert max(gaps) < 1.0


def test_the_largest_prompt_passes(raw: RawClient) -> None:
    tokens = [int(token) for token in TOKENS] * (4000 // len(TOKENS))
    targets = {"data": [1] * (len(tokens) - 1) * 15, "dtype": "int64"}
    targets["shape"] = [len(tokens) - 1, 15]
    body = {
        "sampling_session_id": sampling(raw),
        "seq_id": 1,
        "num_samples": 0,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": tokens}]},
        "sampling_params": {"max_tokens": 2},
        "target_prompt_logprobs": targets,
    }
    assert len(json.dumps(body)) > 2**16  # read away from the event loop
    result = raw.result(raw.post("asample", body)["request_id"])
    assert isinstance(result, types.SampleResponse)


def test_images_beyond_the_context_are_not_all_decoded(raw: RawClient) -> None:
    import base64
    import io

    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (2048, 2048), "white").save(picture, "PNG")
    image = {"type": "image", "data": base64.b64encode(picture.getvalue()).decode()}
    body = {
        "sampling_session_id": sampling(raw),
        "seq_id": 1,
        "num_samples": 1,
        "prompt": {"chunks": [image | {"format": "png"}] * 500},
        "sampling_params": {"max_tokens": 2},
    }
    result = raw.result(raw.post("asample", body)["request_id"])
    assert result["category"] == "user"
    assert "tokens or more, images included" in result["error"]


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /healthz HTTP/1.1\r\nX-Long: ",
        b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Long: ",
        b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2; long=",
        b"GET /",
    ],
    ids=["a header", "a header behind the body", "an extension of a chunk", "an address"],
)
def test_a_head_without_an_end_is_cut_off(engine: RunningEngine, begun: bytes) -> None:
    """Without the key too; whoever sends it cannot fill the engine's memory."""
    address = httpx.URL(engine.url)
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        connection.sendall(begun)
        sent = 0
        with suppress(ConnectionError):
            while sent < 64 * 2**20:
                sent += connection.send(b"x" * 65_536)
        assert sent < 32 * 2**20
